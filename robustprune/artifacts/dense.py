"""A network as one safetensors file: weights, masks, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustprune.artifacts.saved import SavedModel, outlined, rebuilt, tensors_of
from robustprune.artifacts.sealed import read_sealed, write_sealed

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
        metadata: JSON values; ``model`` must hold the arguments of `create_model`, ``surgery`` what
            was cut out of that, see `robustprune.artifacts.surgery`.
    """
    tensors = tensors_of(model) | {f"{name}{MASK}": mask for name, mask in masks.items()}
    write_sealed(path, tensors, metadata)


def annotate(path: Path, **facts: Any) -> None:
    """Add to the metadata of a file that `save_model` wrote; its tensors stay as they are.

    Args:
        path: the file, which is written anew only if that changes it.
        facts: JSON values.
    """
    metadata, tensors = read_sealed(path)
    if metadata | facts != metadata:
        write_sealed(path, tensors, metadata | facts)


def read_dense(path: Path) -> SavedModel:
    """Read a file that `save_model` wrote.

    Raises:
        UsageError: it is missing, damaged, of another kind, or its tensors do not fit the
            architecture that it names.
    """
    metadata, tensors = read_sealed(path)
    outline = outlined(path, metadata, tensors=len(tensors))
    own = outline.state_dict().keys()  # a network may have buffers called …_mask of its own
    marked = [name for name in tensors if name.endswith(MASK) and name not in own]
    masks = {name.removesuffix(MASK): tensors[name] for name in marked}
    weights = {name: tensor for name, tensor in tensors.items() if name not in marked}
    return rebuilt(path, metadata, weights, masks, outline)
