"""Any model file, told apart by its name and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robustprune.artifacts import backends
from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.pickles import SUFFIXES
from robustprune.artifacts.saved import MASK, Outline, SavedModel, listed
from robustprune.artifacts.state_dict import read_state_dict
from robustprune.errors import UsageError

_SIZE = "image_size"  # of no consequence to networks that take any; the others show it in shapes


def load_model(path: str | Path, **architecture: Any) -> nn.Module:
    """The network in a file: plain, in eval mode, masks baked.

    Args:
        path: a run's ``model.safetensors``, an export of any format, or a plain state dict.
        architecture: arguments of `create_model`, ``name`` first, which a plain state dict needs;
            a file that says them itself must agree.

    Raises:
        UsageError: see `read_model`.
    """
    return read_model(Path(path), architecture or None, complete=False).model


def read_model(
    path: Path, architecture: Mapping[str, Any] | None = None, *, complete: bool = True
) -> SavedModel:
    """The network in a file, with its masks and its metadata.

    Args:
        path: as for `load_model`.
        architecture: as for `load_model`.
        complete: ``architecture`` names all arguments; otherwise those that it leaves out are free.

    Raises:
        UsageError: it is missing, damaged, of an unknown kind, or of another architecture; what
            differs is listed. Nothing in it is ever executed.
    """
    file = ModelFile(path)
    known = map(backends.get, backends.names())
    if backend := next((backend for backend in known if backend.recognises(file)), None):
        found = backend.read(file)
    elif file.document is not None:
        found = _read_run_file(file)
    elif architecture is not None:
        return read_state_dict(file, architecture)
    else:
        raise UsageError(
            f"{path} does not name an architecture. If it holds a state dict, name it: --arch "
            "NAME, or 'model: {name: NAME, weights: FILE}' in a recipe."
        )
    if found is None:
        raise UsageError(
            f"{path} is a file of a format that is not read again. Name the file that it was "
            "exported from."
        )
    if architecture is not None:
        _check_same(path, found.metadata["model"], architecture, complete=complete)
    return found


def _read_run_file(file: ModelFile) -> SavedModel:
    metadata, tensors = file.checksummed()
    outline = Outline(file.path, metadata, tensors=len(tensors))
    # a network may have buffers called …_mask of its own
    marked = [name for name in tensors if name.endswith(MASK) and name not in outline.state]
    masks = {name.removesuffix(MASK): tensors.pop(name) for name in marked}
    return outline.rebuild(tensors, masks)


def is_model_file(path: Path) -> bool:
    """True of a file whose name is one that `read_model` takes."""
    own = [suffix for name in backends.names() for suffix in backends.get(name).suffixes]
    return path.name.endswith((".safetensors", *SUFFIXES, *own))


def _check_same(
    path: Path, own: Mapping[str, Any], asked: Mapping[str, Any], *, complete: bool
) -> None:
    keys = (own.keys() | asked.keys() if complete else asked.keys()) - {_SIZE}
    wrong = []
    for key in sorted(keys):
        pair = [own.get(key), asked.get(key)]
        if key == "name":  # a tag names weights, not another architecture
            pair = [str(name).partition(".")[0] for name in pair]
        if pair[0] != pair[1]:
            wrong.append(f"{key} is {pair[0]!r} in the file and {pair[1]!r} here")
    if wrong:
        raise UsageError(f"{path} holds another network than the one asked for: {listed(wrong)}.")
