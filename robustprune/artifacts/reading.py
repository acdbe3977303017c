"""Any model file, told apart by its name and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robustprune.artifacts.container import check_there, is_own
from robustprune.artifacts.dense import read_dense
from robustprune.artifacts.onnx import read_onnx
from robustprune.artifacts.packed import is_packed, packed_metadata, read_packed
from robustprune.artifacts.pickles import SUFFIXES
from robustprune.artifacts.saved import SavedModel, listed
from robustprune.artifacts.sealed import sealed_metadata
from robustprune.artifacts.state_dict import read_exported_state_dict, read_state_dict
from robustprune.errors import UsageError

_SIZE = "image_size"  # of no consequence to networks that take any; the others show it in shapes


def load_model(path: str | Path, **architecture: Any) -> nn.Module:
    """The network in a file: plain, in eval mode, masks baked.

    Args:
        path: a run's ``model.safetensors``, an export of any format, or a plain state dict.
        architecture: for a plain state dict, the arguments of `create_model`, ``name`` first; a
            file that says them itself must agree.

    Raises:
        UsageError: see `read_model`.
    """
    path = Path(path)
    if not architecture or not is_own_file(path):
        return read_model(path, architecture or None).model
    saved = read_model(path)
    own = saved.metadata["model"]
    _check_same(path, {key: own[key] for key in architecture if key in own}, architecture)
    return saved.model


def read_model(path: Path, architecture: Mapping[str, Any] | None = None) -> SavedModel:
    """The network in a file, with its masks and its metadata.

    Args:
        path: one of robustprune's files (``.safetensors``, dense or packed; ``.onnx``), or a plain
            state dict (``.safetensors``, or what `torch.save` wrote), which needs ``architecture``.
        architecture: complete arguments of `create_model`. One of our own files must agree.

    Raises:
        UsageError: it is missing, damaged, of an unknown kind, or of another architecture; what
            differs is listed. Nothing in it is ever executed.
    """
    check_there(path)
    if path.suffix == ".onnx":
        saved = read_onnx(path)
    elif path.suffix == ".safetensors" and (architecture is None or is_own(path)):
        saved = _read_own(path)
    elif architecture is not None:
        return read_state_dict(path, architecture)
    else:
        raise UsageError(
            f"{path} does not name an architecture. If it holds a state dict, name it: --arch "
            "NAME, or 'model: {name: NAME, weights: FILE}' in a recipe."
        )
    if architecture is not None:
        _check_same(path, saved.metadata["model"], architecture)
    return saved


def _read_own(path: Path) -> SavedModel:
    if is_packed(path):
        return read_packed(path)
    if read_metadata(path).get("layout") == "state_dict":
        return read_exported_state_dict(path)
    return read_dense(path)


def is_own_file(path: Path) -> bool:
    """Whether a file says itself which network it holds."""
    check_there(path)
    return path.suffix == ".onnx" or (path.suffix == ".safetensors" and is_own(path))


def is_model_file(path: Path) -> bool:
    """Whether a file's name is one that `read_model` takes."""
    return path.suffix in (".safetensors", ".onnx", *SUFFIXES)


def read_metadata(path: Path) -> dict[str, Any]:
    """Architecture and provenance of one of our safetensors files, its weights left alone."""
    if is_packed(path):
        return packed_metadata(path)
    return sealed_metadata(path)


def _check_same(path: Path, own: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    found, wanted = ({k: v for k, v in a.items() if k != _SIZE} for a in (own, asked))
    for arguments in (found, wanted):  # a tag names weights, not another architecture
        arguments["name"] = str(arguments.get("name")).partition(".")[0]
    wrong = [
        f"{key} is {found.get(key)!r} in the file and {wanted.get(key)!r} here"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if wrong:
        raise UsageError(f"{path} holds another network than the one asked for: {listed(wrong)}.")
