"""A network as one safetensors file: weights, masks, and where it comes from.

The metadata is one key of sorted JSON without time, run id or absolute path (safetensors writes
several keys in random order), so that equal content is an equal file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustprune.artifacts.container import open_safetensors, own_metadata, write_safetensors
from robustprune.artifacts.saved import SavedModel, created, rebuilt

MASK = "_mask"  # behind the parameter's name, as torch.nn.utils.prune has it


def save_model(
    path: Path,
    model: nn.Module,
    *,
    masks: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Write a baked network, whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        model: a plain network; it is written from the CPU in its own precision.
        masks: boolean, by parameter name.
        metadata: JSON values; ``model`` must hold the arguments of `create_model`.
    """
    tensors = dict(model.state_dict())
    tensors |= {f"{name}{MASK}": mask for name, mask in masks.items()}
    _write(path, tensors, metadata)


def annotate(path: Path, **facts: Any) -> None:
    """Add to the metadata of a file that `save_model` wrote; its tensors stay as they are.

    Args:
        path: the file, which is written anew only if that changes it.
        facts: JSON values.
    """
    metadata, tensors = _read(path)
    if metadata | facts != metadata:
        _write(path, tensors, metadata | facts)


def read_dense(path: Path) -> SavedModel:
    """Read a file that `save_model` wrote.

    Raises:
        UsageError: it is missing, damaged, of another kind, or its tensors do not fit the
            architecture that it names.
    """
    metadata, tensors = _read(path)
    model = created(path, metadata.get("model"))
    own = model.state_dict().keys()  # a network may have buffers called …_mask of its own
    marked = [name for name in tensors if name.endswith(MASK) and name not in own]
    masks = {name.removesuffix(MASK): tensors[name] for name in marked}
    weights = {name: tensor for name, tensor in tensors.items() if name not in marked}
    return rebuilt(path, metadata, weights, masks, model)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with open_safetensors(path) as file:
        metadata = own_metadata(path, file.metadata())
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    write_safetensors(path, tensors, json.dumps(metadata, sort_keys=True, allow_nan=False))
