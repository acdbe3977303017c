"""Surgery: cuts that take channels and features out of a network for good.

A file says how its network is rebuilt: create the architecture, apply the surgery, fill in the
tensors. The metadata's key ``surgery`` is a list of cuts, each of one layer along one dimension.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustprune.errors import UsageError, nearest

KEY = "surgery"
Cuttable = nn.Conv2d | nn.Linear | _BatchNorm


class Cut(BaseModel):
    """The part of one layer that is kept along one dimension; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    layer: Annotated[str, Field(max_length=300)]
    """Its name among the network's modules."""
    dimension: Annotated[int, Field(ge=0, le=1)]
    """0: output channels or features, with their biases; 1: input ones, in a grouped convolution
    those at the same place within every group. Norm layers have 0 only."""
    kept: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Indices in the architecture's own layer, ascending."""


def apply_surgery(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> nn.Module:
    """The network after the surgery in a file's metadata, in place, and on its device.

    All of it is checked before anything is cut. ``path`` is for messages.

    Raises:
        UsageError: the file is damaged: the surgery does not fit the network.
    """
    cuts = [Cut.model_validate(cut) for cut in metadata.get(KEY) or []]
    modules = dict(model.named_modules())
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    places = Counter((cut.layer, cut.dimension) for cut in cuts)
    faults = (_fault(cut, modules, uses, places) for cut in cuts)
    if problems := list(itertools.islice(filter(None, faults), 8)):
        raise UsageError(f"{path} is damaged: in its surgery, {'; '.join(problems)}.")
    for cut in cuts:
        _apply(cut, modules[cut.layer])
    return model


def describe_cuts(metadata: Mapping[str, Any]) -> str:
    """The cuts in words: ``conv1 to 12 outputs, conv2 to 12 inputs``; empty if there are none."""
    sides = ("outputs", "inputs")
    return ", ".join(
        f"{cut['layer'] or 'the network'} to {len(cut['kept'])} {sides[cut['dimension']]}"
        for cut in metadata.get(KEY) or []
    )


def _fault(
    cut: Cut,
    modules: Mapping[str, nn.Module],
    uses: Counter[int],
    places: Counter[tuple[str, int]],
) -> str:
    """The fault of a cut; empty if there is none."""
    layer = modules.get(cut.layer)
    if layer is None:
        return f"no layer is called '{cut.layer}'.{nearest(cut.layer, modules)}".rstrip(".")
    if places[cut.layer, cut.dimension] > 1:
        return f"'{cut.layer}' is cut twice along dimension {cut.dimension}"
    if not isinstance(layer, Cuttable) or (isinstance(layer, _BatchNorm) and cut.dimension):
        return (
            f"{type(layer).__name__} '{cut.layer}' cannot be cut along dimension "
            f"{cut.dimension}: Conv2d and Linear can along 0 and 1, BatchNorm along 0"
        )
    if any(uses[id(parameter)] > 1 for parameter in layer.parameters(recurse=False)):
        return f"'{cut.layer}' shares a weight with another layer, and cannot be cut alone"
    if isinstance(layer, _BatchNorm):  # it may have no weight
        size = layer.num_features
    else:
        size = layer.weight.shape[cut.dimension]
    fault = ""
    if any(low >= high for low, high in itertools.pairwise(cut.kept)):
        fault = "the kept indices are not ascending"
    elif cut.kept[-1] >= size:
        fault = f"index {cut.kept[-1]} is kept, and there are {size}"
    elif isinstance(layer, nn.Conv2d) and not cut.dimension and len(_groups(layer, cut.kept)) > 1:
        fault = f"its {layer.groups} groups keep unlike numbers of outputs"
    return fault and f"of dimension {cut.dimension} of '{cut.layer}' {fault}"


def _groups(layer: nn.Conv2d, kept: Sequence[int]) -> set[int]:
    """The numbers of outputs that groups keep, but 0."""
    each = layer.out_channels // layer.groups
    return set(Counter(index // each for index in kept).values())


def _apply(cut: Cut, layer: Any) -> None:
    """Replace a layer's tensors by what is kept of them, and tell it its new size."""
    names = ("weight",) if cut.dimension else ("weight", "bias", "running_mean", "running_var")
    for name in names:
        if (tensor := getattr(layer, name, None)) is None:
            continue
        index = torch.tensor(cut.kept, device=tensor.device)
        left = tensor.detach().index_select(cut.dimension, index)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(left, tensor.requires_grad) if is_parameter else left)
    kept = len(cut.kept)
    if isinstance(layer, _BatchNorm):
        layer.num_features = kept
    elif isinstance(layer, nn.Linear):
        setattr(layer, "in_features" if cut.dimension else "out_features", kept)
    elif cut.dimension:
        layer.in_channels = kept * layer.groups
    else:  # groups of which nothing is left go, with the inputs that only they have
        (each,) = _groups(layer, cut.kept)
        inputs = layer.in_channels // layer.groups
        layer.out_channels, layer.groups = kept, kept // each
        layer.in_channels = inputs * layer.groups
