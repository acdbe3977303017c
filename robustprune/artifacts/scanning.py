"""Files of `torch.save`, looked over before they are read: how large they are, and what they call.

torch itself calls nothing that could do harm, but believes what a file says of sizes: it inflates
records of a zip, and makes bytes of any number that is asked for.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

import torch

from robustprune.artifacts.limits import LONGEST_STRUCTURE
from robustprune.errors import UsageError

_CALLED = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state"
    r"|sparse_tensor|qtensor|meta_tensor_no_storage)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
    r"|torch (Size|device|\w+Storage)|torch\.storage (Untyped|Typed)Storage"
    r"|(builtins|__builtin__) (set|complex)|_codecs encode"
    r"|numpy(\._?core\.multiarray)? (dtype|scalar)|numpy\.dtypes \w+DType"
)
"""What a file may call: of all that torch admits, what makes no more than it is given."""

_PICKLES = 5  # in torch's older format: magic number, version, system, content, names of storages

_LONGER = re.compile(r"\W*(hex|base64|bz2|zip|zlib|quopri|quotedprintable|uu)(codec)?")
"""Codecs from bytes to bytes, without what separates words: repeated, they have no bound."""


def check_zip(path: Path) -> None:
    """Make sure of a zip's sizes, then of what its pickle calls, then of all checksums.

    Raises:
        UsageError: it is larger than it looks, calls something else, or is damaged.
        Exception: it is no zip; of the library, about bytes of any kind.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {record.filename.lower() for record in records}  # torch looks for them so
        content = sum(record.file_size for record in records)
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UsageError(
                f"{path} was not read: its records are compressed, as torch.save never does. "
                "Unpack it, or save it again."
            )
        if len(names) < len(records) or content > path.stat().st_size or archive.comment:
            raise UsageError(f"{path} is damaged: its records share bytes or names.")
        for record in records:
            if record.filename.lower().endswith("data.pkl"):
                with archive.open(record) as file:
                    check_calls(path, file)
        broken = archive.testzip()
    if broken is not None:
        raise UsageError(f"{path} is damaged: '{broken}' in it does not have its checksum.")


def check_legacy(path: Path) -> None:
    """Make sure of what the pickles of torch's older format call.

    Raises:
        UsageError: something that is not admitted.
        Exception: they are no pickles.
    """
    with path.open("rb") as file:
        for _ in range(_PICKLES):
            check_calls(path, file)


def check_calls(path: Path, file: IO[bytes]) -> None:
    """Make sure of the size of one pickle, and of what it calls; it is read to its end, as data.

    Raises:
        UsageError: it is too long, or calls something that is not admitted.
        Exception: it is no pickle.
    """
    encodes, longer, start = False, False, file.tell()
    for code, argument, position in pickletools.genops(file):
        if (position or 0) - start > LONGEST_STRUCTURE:
            raise UsageError(
                f"{path} was not read: what it says of its tensors, and holds beside them, is "
                f"longer than {LONGEST_STRUCTURE:,} bytes. Save its state dict alone."
            )
        if code.name in ("GLOBAL", "INST"):
            _check_call(path, str(argument))
            encodes = encodes or argument == "_codecs encode"
        elif isinstance(argument, str) and len(argument) < 50:
            longer = longer or bool(_LONGER.fullmatch(re.sub(r"[\W_]", "", argument.lower())))
    if encodes and longer:
        raise UsageError(f"{path} was not read: it encodes bytes as more bytes.")


def _check_call(path: Path, name: str) -> None:
    module, _, last = name.partition(" ")
    plain = module == "torch" and isinstance(
        getattr(torch, last, None), torch.dtype | torch.qscheme
    )
    if not plain and not _CALLED.fullmatch(name):
        raise UsageError(
            f"{path}: refused, because it asks to call '{module}.{last}', and only tensors, plain "
            "values and numpy's scalars are read. Save its state dict alone: "
            "torch.save(model.state_dict(), …)."
        )
