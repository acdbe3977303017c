"""A network as one safetensors file: weights, masks, and where it comes from.

The metadata is one key of sorted JSON without time, run id or absolute path (safetensors writes
several keys in random order), so that equal content is an equal file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.files import replacing
from robustprune.models import create_model
from robustprune.seeding import fork

KEY = "robustprune"
MASK = "_mask"  # behind the parameter's name, as torch.nn.utils.prune has it


@dataclass(frozen=True)
class SavedModel:
    """What a model file holds.

    Attributes:
        model: a plain network in eval mode, masks baked.
        masks: the mask of each pruned parameter by its name; empty for a dense network.
        metadata: architecture and provenance; ``metadata["model"]`` rebuilds the network.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    metadata: dict[str, Any]


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
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {f"{name}{MASK}": mask.cpu().contiguous() for name, mask in masks.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def load_model(path: str | Path) -> nn.Module:
    """The network in a file: plain, in eval mode, masks baked. See `read_model` for errors."""
    return read_model(Path(path)).model


def read_model(path: Path) -> SavedModel:
    """Read a file that `save_model` wrote.

    Raises:
        UsageError: it is missing, damaged, of another kind, or its tensors do not fit the
            architecture that it names.
    """
    metadata, tensors = _read(path)
    try:
        with fork(0, "read_model"):  # initial weights are drawn, and overwritten
            model = create_model(**metadata["model"])
    except UsageError:
        raise
    except Exception as error:  # of any constructor, about arguments that anybody may have written
        raise UsageError(f"{path} does not say which architecture it holds ({error}).") from None
    own = model.state_dict().keys()  # a network may have buffers called …_mask of its own
    marked = [name for name in tensors if name.endswith(MASK) and name not in own]
    masks = {name.removesuffix(MASK): tensors[name] for name in marked}
    weights = {name: tensor for name, tensor in tensors.items() if name not in marked}
    _check_fit(path, model, weights, masks)
    model.load_state_dict(weights)
    return SavedModel(model.eval(), masks, metadata)


def read_metadata(path: Path) -> dict[str, Any]:
    """Architecture and provenance of a model file, without reading its tensors."""
    with _opened(path) as file:
        return _metadata(path, file.metadata())


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with _opened(path) as file:
        metadata = _metadata(path, file.metadata())
        return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(
            f"there is no model file {path}. A run writes one a network, e.g. "
            "runs/<recipe>/<id>/hydra-0.01/model.safetensors."
        )
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path} is not a whole safetensors file ({error}). If it is a pickle (.pt, .pth), it "
            "was not opened: pickles can run code."
        ) from None


def _metadata(path: Path, found: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        metadata = json.loads((found or {})[KEY])
    except (KeyError, ValueError):
        raise UsageError(
            f"{path} is a safetensors file, but not one of robustprune's: it has no '{KEY}' "
            "metadata that names its architecture."
        ) from None
    if not isinstance(metadata, dict):
        raise UsageError(f"{path}: its '{KEY}' metadata is no mapping.")
    return metadata


def _check_fit(
    path: Path, model: nn.Module, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is not of this architecture" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    for name, mask in masks.items():
        if found.get(name) != tuple(mask.shape) or mask.dtype != torch.bool:
            problems.append(f"the mask of {name} does not fit")
        elif bool(weights[name][~mask].count_nonzero()):
            problems.append(f"{name} has weights that its mask has pruned")
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UsageError(f"{path} is damaged: {'; '.join(sorted(problems)[:8])}{more}.")
