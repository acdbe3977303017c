"""The networks of a recipe, in the order in which they are made, and the stages of each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.pruners import Pruner, Stage

if TYPE_CHECKING:
    from torch import nn

    from robustprune.recipe import Recipe

MASK, EPOCH = "mask:", "pretrain@"
"""Beginnings of needs that name another network's mask, or an epoch of pretraining."""


class Network(NamedTuple):
    """One network of a run.

    Attributes:
        name: ``dense``, or the pruner's and the density's.
        pruner: None for the dense one.
        density: as asked for.
        stages: what is trained.
    """

    name: str
    pruner: Pruner | None
    density: float
    stages: list[Stage]


def networks(recipe: Recipe) -> list[Network]:
    """The networks that a recipe makes, each after those whose masks it needs.

    Raises:
        UsageError: a pruner lacks a section of the recipe.
    """
    found = []
    if wants_dense(recipe):
        stages = [] if recipe.pretrain is None else [Stage("pretrain", recipe.pretrain)]
        found.append(Network("dense", None, 1.0, stages))
    for pruner in ordered(pruners_of(recipe)):
        assert recipe.prune is not None
        for density in recipe.prune.densities:
            stages = pruner.stages(density, recipe.stages)
            found.append(Network(pruner.network(density), pruner, density, stages))
    return found


def pruners_of(recipe: Recipe) -> list[Pruner]:
    """The recipe's pruners; none if it has no ``prune`` section."""
    return [] if recipe.prune is None else list(recipe.prune.methods)  # type: ignore[arg-type]


def wants_dense(recipe: Recipe) -> bool:
    """True if a dense network is trained: not if every pruner starts from an untrained one."""
    needs = [need for pruner in pruners_of(recipe) for need in pruner.needs()]
    return not needs or any(need == "dense" or need.startswith(EPOCH) for need in needs)


def kept_epochs(recipe: Recipe) -> list[int]:
    """The epochs of pretraining whose weights pruners need."""
    needs = {need for pruner in pruners_of(recipe) for need in pruner.needs()}
    return sorted(int(need.removeprefix(EPOCH)) for need in needs if need.startswith(EPOCH))


def check_maskable(recipe: Recipe, model: nn.Module) -> None:
    """Make sure that every pruner can mask the network, before anything is trained.

    Raises:
        UsageError: a weight of it cannot be masked exactly, or a pattern of layers fits none.
    """
    for pruner in pruners_of(recipe):
        try:
            attach(copy.deepcopy(model), exclude=pruner.exclude, structure=pruner.structure)
        except UsageError as error:
            raise UsageError(f"pruner '{pruner.variant}': {error}") from None


def ordered(pruners: list[Pruner]) -> list[Pruner]:
    """The pruners in their order, but each after those whose masks it needs.

    `robustprune.recipe.inconsistencies` has made sure that this can be done.
    """
    done: list[Pruner] = []
    while len(done) < len(pruners):
        labels = {pruner.variant for pruner in done}
        left = [pruner for pruner in pruners if pruner not in done]
        ready = [
            p for p in left if {n[len(MASK) :] for n in p.needs() if n.startswith(MASK)} <= labels
        ]
        done.append(ready[0])
    return done
