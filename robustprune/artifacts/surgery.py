"""Surgery: what was taken out of a network for good, as a model file says it.

A file says how its network is rebuilt: create the architecture, apply the surgery, fill in the
tensors. The metadata's key ``surgery`` is a list of cuts, each of one layer along one dimension.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    """What is left of one layer along one dimension; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    layer: Annotated[str, Field(max_length=300)]
    """Its name among the network's modules."""
    dimension: Annotated[int, Field(ge=0, le=1)]
    """0: output channels or features, with their biases; 1: input ones, in a grouped convolution
    those at the same place within every group. Norm layers have 0 only."""
    kept: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Indices in the architecture's own layer, ascending."""


def operated(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> nn.Module:
    """A network after the surgery that its file tells of.

    All of it is checked before anything is cut. A network on the meta device stays there.

    Args:
        path: the file, for messages.
        model: as its architecture has it; changed in place.
        metadata: the file's.

    Raises:
        UsageError: the file is damaged: the surgery does not fit the network.
    """
    found = metadata.get(KEY) or []
    cuts = [cut if isinstance(cut, Cut) else Cut.model_validate(cut) for cut in found]
    if problems := list(itertools.islice(_problems(model, cuts), 8)):
        raise UsageError(f"{path} is damaged: in its surgery, {'; '.join(problems)}.")
    for cut in cuts:
        layer = model.get_submodule(cut.layer)
        if isinstance(layer, _BatchNorm):
            _cut_norm(layer, cut.kept)
        elif cut.dimension == 0:
            _cut_outputs(layer, cut.kept)  # type: ignore[arg-type]
        else:
            _cut_inputs(layer, cut.kept)  # type: ignore[arg-type]
    return model


def described_cuts(metadata: Mapping[str, Any]) -> str:
    """What was cut, in words: ``conv1 to 12 outputs, conv2 to 12 inputs``; empty if nothing was."""
    sides = ("outputs", "inputs")
    return ", ".join(
        f"{cut['layer'] or 'the network'} to {len(cut['kept'])} {sides[cut['dimension']]}"
        for cut in metadata.get(KEY) or []
    )


def _problems(model: nn.Module, cuts: Sequence[Cut]) -> Iterator[str]:
    modules = dict(model.named_modules())
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    seen: set[tuple[str, int]] = set()
    for cut in cuts:
        layer = modules.get(cut.layer)
        if layer is None:
            yield f"no layer is called '{cut.layer}'.{nearest(cut.layer, modules)}".rstrip(".")
        elif (cut.layer, cut.dimension) in seen:
            yield f"'{cut.layer}' is cut twice along dimension {cut.dimension}"
        elif not isinstance(layer, Cuttable) or (
            isinstance(layer, _BatchNorm) and cut.dimension != 0
        ):
            yield (
                f"{type(layer).__name__} '{cut.layer}' cannot be cut along dimension "
                f"{cut.dimension}: Conv2d and Linear can along 0 and 1, BatchNorm along 0"
            )
        elif any(uses[id(parameter)] > 1 for parameter in layer.parameters(recurse=False)):
            yield f"'{cut.layer}' shares a weight with another layer, and cannot be cut alone"
        elif reason := _misfit(layer, cut):
            yield f"of dimension {cut.dimension} of '{cut.layer}' {reason}"
        seen.add((cut.layer, cut.dimension))


def _misfit(layer: Cuttable, cut: Cut) -> str:
    """What is wrong with the indices; empty if nothing is."""
    size = _size(layer, cut.dimension)
    if any(low >= high for low, high in itertools.pairwise(cut.kept)):
        return "the kept indices are not ascending"
    if cut.kept[-1] >= size:
        return f"index {cut.kept[-1]} is kept, and there are {size}"
    if isinstance(layer, nn.Conv2d) and cut.dimension == 0 and len(_groups(layer, cut.kept)) > 1:
        return f"its {layer.groups} groups keep unlike numbers of outputs"
    return ""


def _size(layer: Cuttable, dimension: int) -> int:
    if isinstance(layer, _BatchNorm):
        return layer.num_features
    return int(layer.weight.shape[dimension])


def _groups(layer: nn.Conv2d, kept: Sequence[int]) -> set[int]:
    """How many outputs groups keep: the numbers that occur, but 0."""
    each = layer.out_channels // layer.groups
    counts = [0] * layer.groups
    for index in kept:
        counts[index // each] += 1
    return set(counts) - {0}


def _cut_outputs(layer: nn.Conv2d | nn.Linear, kept: Sequence[int]) -> None:
    """Groups of which nothing is left go, with the inputs that only they have."""
    _slice(layer, ("weight", "bias"), 0, kept)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(kept)
        return
    (each,) = _groups(layer, kept)
    inputs = layer.in_channels // layer.groups
    layer.out_channels, layer.groups = len(kept), len(kept) // each
    layer.in_channels = inputs * layer.groups


def _cut_inputs(layer: nn.Conv2d | nn.Linear, kept: Sequence[int]) -> None:
    _slice(layer, ("weight",), 1, kept)
    if isinstance(layer, nn.Linear):
        layer.in_features = len(kept)
    else:
        layer.in_channels = len(kept) * layer.groups


def _cut_norm(layer: _BatchNorm, kept: Sequence[int]) -> None:
    _slice(layer, ("weight", "bias", "running_mean", "running_var"), 0, kept)
    layer.num_features = len(kept)


def _slice(layer: nn.Module, names: Sequence[str], dimension: int, kept: Sequence[int]) -> None:
    """Replace tensors by what is kept of them, on their device."""
    for name in names:
        tensor = getattr(layer, name)
        if tensor is None:
            continue
        index = torch.tensor(kept, device=tensor.device)
        left = tensor.detach().index_select(dimension, index)
        if isinstance(tensor, nn.Parameter):
            left = nn.Parameter(left, requires_grad=tensor.requires_grad)
        setattr(layer, name, left)
