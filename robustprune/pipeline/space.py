"""What a run will still write, and whether the disks have room for it: asked before training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.masking import prunable_layers
from robustprune.objectives import Objective
from robustprune.pipeline.stages import kept_epochs, networks
from robustprune.tracking import local_store

if TYPE_CHECKING:
    from robustprune.datasets import Splits
    from robustprune.pipeline.folder import RunFolder
    from robustprune.pruners import Stage
    from robustprune.recipe import Recipe
    from robustprune.training.optimizers import OptimizerPart

_SMALL = 1_000_000  # bytes of curves, verdicts, images and results
_REPORT = 2_000_000  # its page and figures, with a copy in a store
_STORE = 2_000_000  # the tables of a new one
_TENSOR = 1024  # what a file says about a tensor
_PROBE = 64


@dataclass(frozen=True)
class Space:
    """Bytes that a run will still write.

    Attributes:
        states: of each stage that has no state yet; all are kept until the run's end.
        models: of each network that is not there yet.
    """

    states: tuple[int, ...]
    models: tuple[int, ...]

    @property
    def reserve(self) -> int:
        """What the writes of one moment need at most."""
        return max(self.states, default=0) + max(self.models, default=0) + _SMALL

    @property
    def folder(self) -> int:
        """All of the run folder, with the reserve and the draft of the largest file."""
        draft = max((*self.states, *self.models), default=0)
        return sum(self.states) + sum(self.models) + draft + self.reserve + _SMALL


class _Need(NamedTuple):
    place: Path
    size: int
    elsewhere: str


def needed(recipe: Recipe, data: Splits, model: nn.Module, folder: RunFolder | None) -> Space:
    """What a run will still write.

    Args:
        recipe: resolved.
        data: its images; some objectives keep a batch of them.
        model: the dense network on the CPU, whatever its weights.
        folder: what is there already; None for a run that begins.
    """
    states, models = [], []
    dense = _bytes(model.state_dict().values())
    prunable = sum(layer.weight.numel() for layer in prunable_layers(model).values())
    for network in networks(recipe):
        if folder is not None and folder.model(network.name).exists():
            continue
        masks = 0 if network.pruner is None else prunable
        models.append(dense + masks)
        states += [
            _state(recipe, data, stage, dense=dense, masks=masks)
            for stage in network.stages
            if folder is None or not folder.state(network.name, stage.name).exists()
        ]
    states += [
        dense for epoch in kept_epochs(recipe) if folder is None or not folder.epoch(epoch).exists()
    ]
    return Space(tuple(states), tuple(models))


def check_room(space: Space, recipe: Recipe, *, out: Path, runs: Path, shares: bool) -> None:
    """Make sure that the disks have room for a run.

    Args:
        space: what it will still write.
        recipe: says whether it is tracked, and where.
        out: the run folder, which need not exist.
        runs: where dense networks are shared.
        shares: whether this run's is.

    Raises:
        UsageError: one has too little.
    """
    report = _REPORT if recipe.tracking.enabled and recipe.tracking.report else 0
    needs = [_Need(out, space.folder + report, "--out for the run folder")]
    if shares and space.models:
        size = space.models[0] * (1 + len(kept_epochs(recipe)))
        needs.append(_Need(runs, size, "--fresh to share no dense network"))
    if recipe.tracking.enabled and (store := local_store(recipe.tracking, runs)) is not None:
        size = sum(space.models) + report + (0 if store.exists() else _STORE)
        needs.append(_Need(store, size, "tracking.uri for MLflow's store"))
    disks: dict[int, list[_Need]] = {}
    for need in needs:
        disks.setdefault(_existing(need.place).stat().st_dev, []).append(need)
    for disk in disks.values():
        _check_disk(disk)


def _check_disk(needs: list[_Need]) -> None:
    place = _existing(needs[0].place)
    size, free = sum(need.size for need in needs), shutil.disk_usage(place).free
    if size > free:
        raise UsageError(
            f"the disk of {place} has {free / 1e6:,.1f} MB left, and the run would write "
            f"{size / 1e6:,.1f} MB there. Make room, or choose another place: "
            f"{', '.join(need.elsewhere for need in needs)}."
        )


def _state(recipe: Recipe, data: Splits, stage: Stage, *, dense: int, masks: int) -> int:
    """Bytes of a stage's state file, as many as it may become.

    The network with a score and two masks for each weight, what the optimizer keeps for all of
    that, and what a method may keep: a copy of the network.
    """
    options = stage.options
    network = dense + (4 + 2) * masks
    if options is None:
        return network
    size = network * (2 if options.select == "best" else 1) + (dense if masks else 0)
    size += (dense + 4 * masks) * _moments(options.optimizer)  # type: ignore[arg-type]
    objective: Objective = options.objective or recipe.objective  # type: ignore[assignment]
    if type(objective).state_dict is not Objective.state_dict:  # noise of the batch's shape
        size += 4 * options.batch_size * data.channels * data.image_size**2
    return size


def _moments(part: OptimizerPart) -> int:
    """Numbers that an optimizer keeps for each one that it moves: it is asked to move a few."""
    probe = nn.Parameter(torch.zeros(_PROBE))
    probe.grad = torch.zeros(_PROBE)
    optimizer = part.built([probe])
    optimizer.step()
    kept = (value for value in optimizer.state[probe].values() if isinstance(value, Tensor))
    return sum(value.numel() for value in kept) // _PROBE


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes + _TENSOR for tensor in tensors)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))
