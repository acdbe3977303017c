"""PyTorch's own files, which are pickles, read as data: nothing in them is ever executed.

They are looked over before torch reads them, for their sizes and for what they call: torch itself
calls nothing that could do harm, but believes what a file says of sizes. It inflates records of a
zip, and makes bytes of any number that is asked for.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from robustprune.artifacts.limits import LONGEST_STRUCTURE
from robustprune.errors import UsageError, first_line

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")

_KINDS = {kind: np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "b1")}


def _kind(code: str, *_: Any) -> np.dtype[Any]:
    """The type of plain numbers that a code names; numpy's own function makes any, of any size."""
    return _KINDS[code]


_SCALAR = np.float64(0).__reduce__()[0]
_ADMITTED: list[Any] = [
    *((_SCALAR, f"numpy.{home}.multiarray.scalar") for home in ("core", "_core")),
    (_kind, "numpy.dtype"),
    *{type(kind) for kind in _KINDS.values()},
]
"""Names that checkpoints of the field hold beside tensors: numpy's scalars, of optimizers."""

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
"""The calls that a file may make: of all that torch admits, what makes no more than it is given."""

_PICKLES = 5  # in torch's older format: magic number, version, system, content, names of storages

_LONGER = re.compile(r"\W*(hex|base64|bz2|zip|zlib|quopri|quotedprintable|uu)(codec)?")
"""Codecs from bytes to bytes, without what separates words: repeated, they have no bound."""


def read_pickle(path: Path) -> Any:
    """The content of what `torch.save` wrote, in its zip format or its older one, on the CPU.

    Tensors of a zip stay in the file until they are used, which must not change before.

    Raises:
        UsageError: it is damaged, takes more memory than its own size, or asks to call anything
            but what makes tensors, plain values and numpy's scalars; refused before it happens.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            file.seek(0)
            if zipped:
                _check_zip(path)
            else:
                for _ in range(_PICKLES):
                    _check_calls(path, file)
        with torch.serialization.safe_globals(_ADMITTED), warnings.catch_warnings(action="ignore"):
            # mapped, a zip's tensors are no longer than the file, whatever is said of them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UsageError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        inner = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))  # behind torch's advice
        reason = inner[1] if inner else first_line(error)
        raise UsageError(
            f"{path} is not a whole file of torch.save, or holds more than data ({reason[:200]}). "
            "Nothing in it was executed."
        ) from None


def _check_zip(path: Path) -> None:
    """Make sure of a zip's sizes, then of what its pickle calls, then of all checksums."""
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
                    _check_calls(path, file)
        broken = archive.testzip()
    if broken is not None:
        raise UsageError(f"{path} is damaged: '{broken}' in it does not have its checksum.")


def _check_calls(path: Path, file: IO[bytes]) -> None:
    """Make sure of the size of one pickle, and of what it calls; it is read to its end, as data."""
    encodes, longer, start = False, False, file.tell()
    for code, argument, position in pickletools.genops(file):
        if (position or 0) - start > LONGEST_STRUCTURE:
            raise UsageError(
                f"{path} was not read: what it says of its tensors, and holds beside them, is "
                f"longer than {LONGEST_STRUCTURE:,} bytes. Save its state dict alone."
            )
        if code.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            found = getattr(torch, name, None) if module == "torch" else None
            plain = isinstance(found, torch.dtype | torch.qscheme)
            if not plain and not _CALLED.fullmatch(str(argument)):
                raise UsageError(
                    f"{path}: refused, because it asks to call '{module}.{name}', and only "
                    "tensors, plain values and numpy's scalars are read. Save its state dict "
                    "alone: torch.save(model.state_dict(), …)."
                )
            encodes = encodes or argument == "_codecs encode"
        elif isinstance(argument, str) and len(argument) < 50:
            longer = longer or bool(_LONGER.fullmatch(re.sub(r"[\W_]", "", argument.lower())))
    if encodes and longer:
        raise UsageError(f"{path} was not read: it encodes bytes as more bytes.")
