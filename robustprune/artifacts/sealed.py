"""Safetensors files that hold a network's tensors as they are, under a digest of all of them.

The metadata is one key of sorted JSON without time, run id or absolute path (safetensors writes
several keys in random order), so that equal content is an equal file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from robustprune.artifacts.container import KEY, open_safetensors, own_text, write_safetensors
from robustprune.artifacts.metadata import canonical, described, parsed
from robustprune.errors import UsageError

_DIGEST = "sha256"


def write_sealed(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    durable: bool = True,
) -> None:
    """Write tensors and metadata, whole or not at all; see `robustprune.files.replacing`."""
    write_safetensors(path, tensors, _sealed(tensors, metadata), durable=durable)


def read_sealed(
    path: Path, check: Callable[[Path, dict[str, Any]], dict[str, Any]] = described
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_sealed` wrote.

    Args:
        path: the file.
        check: makes sure of its metadata; those of a network, if nothing else is said.

    Raises:
        UsageError: it is missing, somebody else's, or a single bit of it has changed.
    """
    try:
        with open_safetensors(path) as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: {error}.") from None
    metadata = check(path, _metadata(path, header))
    if header != {KEY: _sealed(tensors, metadata)}:
        raise UsageError(f"{path} is damaged: its content does not have the digest that it names.")
    return metadata, tensors


def sealed_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone; the digest, which is of the tensors too, is not looked at."""
    with open_safetensors(path) as file:
        return described(path, _metadata(path, file.metadata() or {}))


def _metadata(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    document = parsed(path, own_text(path, header))
    document.pop(_DIGEST, None)
    return document


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the metadata and of the tensors' names, types and bytes."""
    found = hashlib.sha256(canonical(dict(metadata)).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """The metadata as text, with a digest of everything."""
    return canonical({**metadata, _DIGEST: digest(tensors, metadata)})
