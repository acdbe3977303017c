"""Safetensors files as containers: opened, and asked whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.files import replacing

KEY = "robustprune"


def open_safetensors(path: Path) -> Any:
    """An open file, a context manager, as `safetensors.safe_open` gives it.

    Raises:
        UsageError: there is none, or it is no safetensors file from its first byte to its last.
    """
    check_there(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path} is not a whole safetensors file ({error}). If it is a pickle (.pt, .pth), it "
            "was not opened: pickles can run code."
        ) from None


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: str, *, durable: bool = True
) -> None:
    """Write a file, whole or not at all, with our key of metadata; see `replacing`."""
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        tied = any(plain.data_ptr() == other.data_ptr() for other in own.values() if other.numel())
        own[name] = plain.clone() if tied else plain  # the format has no tensors that share memory
    content = save(own, {KEY: metadata})
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def check_there(path: Path) -> None:
    """Make sure that there is a file.

    Raises:
        UsageError: there is none, or it is something else than a file.
    """
    try:
        found, readable = path.exists(), path.is_file()
    except OSError:  # a name that no file can have
        found = readable = False
    if found and not readable:
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UsageError(f"{path} is {kind}, and no model file. Name the file in it.")
    if not readable:
        raise UsageError(
            f"there is no model file {path}. A run writes one a network, e.g. "
            "runs/<recipe>/<id>/hydra-0.01/model.safetensors."
        )


def is_own(path: Path) -> bool:
    """Whether a safetensors file is one of robustprune's; raises as `open_safetensors` does."""
    with open_safetensors(path) as file:
        return KEY in (file.metadata() or {})


def own_text(path: Path, header: Mapping[str, str]) -> str:
    """What our key of a file's metadata holds.

    Raises:
        UsageError: it is not there: the file is somebody else's.
    """
    if KEY not in header:
        raise UsageError(
            f"{path} is a safetensors file, but not one of robustprune's: it has no '{KEY}' "
            "metadata that names its architecture. Name it yourself: --arch NAME, or "
            "'model: {name: NAME, weights: FILE}' in a recipe."
        )
    return header[KEY]
