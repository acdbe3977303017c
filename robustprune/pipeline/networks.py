"""The networks of a recipe, in the order in which they are made, and the stages of each."""

from __future__ import annotations

from typing import NamedTuple

from robustprune.pruners import Pruner, Stage
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
    for pruner in _ordered(pruners_of(recipe)):
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
    needs = recipe.needs()
    return not needs or "dense" in needs or bool(kept_epochs(recipe))


def kept_epochs(recipe: Recipe) -> list[int]:
    """The epochs of pretraining whose weights pruners need."""
    epochs = [need for need in recipe.needs() if need.startswith(EPOCH)]
    return sorted(int(need.removeprefix(EPOCH)) for need in epochs)


def _ordered(pruners: list[Pruner]) -> list[Pruner]:
    """The pruners in their order, but each after those whose masks it needs.

    `robustprune.recipe.inconsistencies` has made sure that this can be done.
    """
    done: list[Pruner] = []
    while len(done) < len(pruners):
        masks = {f"{MASK}{pruner.variant}" for pruner in done}
        left = [pruner for pruner in pruners if pruner not in done]
        done.append(next(p for p in left if masks >= {n for n in p.needs() if n.startswith(MASK)}))
    return done
