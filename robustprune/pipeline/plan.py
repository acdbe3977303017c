"""The plan of a recipe: the weights that it keeps and the steps that it takes, untrained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustprune.components import check_installed
from robustprune.datasets import Splits
from robustprune.masking import MaskedModel, attach, prunable_layers, select
from robustprune.objectives import Objective
from robustprune.pipeline.checks import check_counts, check_maskable
from robustprune.pipeline.compute import check_device
from robustprune.pipeline.initial_network import initial_network
from robustprune.pipeline.networks import networks, pruners_of
from robustprune.pruners import Pruner
from robustprune.recipe import Recipe
from robustprune.tracking import RUNS, describe_store
from robustprune.tracking.progress import Work
from robustprune.training.loop import steps_of

Table = tuple[list[str], list[list[str]]]


@dataclass
class Plan:
    """A recipe with its data read and its network built."""

    recipe: Recipe
    data: Splits
    model: nn.Module

    def kept(self) -> Table:
        """Weights kept in each layer, a column for each pruned network.

        The masks are those of the untrained network's largest weights: where an allocation follows
        what a method learns, the layers' shares may come out otherwise.

        Raises:
            UsageError: a pruner cannot mask the network at a density.
        """
        check_maskable(self.recipe, self.model)
        layers = prunable_layers(self.model)
        dense = {name: layer.weight.numel() for name, layer in layers.items()}
        columns: dict[str, dict[str, int]] = {}
        for name, pruner, density, _ in networks(self.recipe):
            if pruner is not None:
                masked = self._attached(pruner)
                importance = {key: weight.detach().abs() for key, weight in masked.weights.items()}
                where, shape = pruner.allocation, pruner.structure
                masked.set(select(importance, density, allocation=where, structure=shape))
                columns[name] = dense | {layer.name: layer.kept for layer in masked.report()}
        rows = [
            [name, "×".join(map(str, layer.weight.shape)), f"{dense[name]:,}"]
            + [f"{counts[name]:,}" for counts in columns.values()]
            for name, layer in layers.items()
        ]
        sums = [f"{sum(counts.values()):,}" for counts in (dense, *columns.values())]
        return ["layer", "shape", "dense", *columns], [*rows, ["all", "", *sums]]

    def left_dense(self) -> dict[str, list[str]]:
        """By pruner, the prunable layers without a mask: excluded, or left by its structure."""
        layers = {}
        for pruner in pruners_of(self.recipe):
            masked = {layer.name for layer in self._attached(pruner).report()}
            layers[pruner.variant] = [n for n in prunable_layers(self.model) if n not in masked]
        return layers

    def steps(self) -> Table:
        """Optimizer steps of each network's stages."""
        rows, total = [], 0
        for network in networks(self.recipe):
            for stage in network.stages:
                if (options := stage.options) is None:
                    continue
                objective: Objective = self.recipe.objective_of(options)
                steps = steps_of(options, self.data, objective, seed=self.recipe.seed)
                epochs = options.epochs - stage.start
                total += epochs * steps
                numbers = [str(epochs), f"{steps:,}", f"{epochs * steps:,}"]
                rows.append([network.name, stage.name, *numbers])
        rows.append(["all", "", "", "", f"{total:,}"])
        return ["network", "stage", "epochs", "steps per epoch", "steps"], rows

    def paths(self) -> list[str]:
        """The folder of a run, its id left open, and the store that it is tracked in."""
        folder = RUNS / self.recipe.name / "<id>"
        return [str(folder), describe_store(self.recipe.tracking, RUNS)]

    def _attached(self, pruner: Pruner) -> MaskedModel:
        model = copy.deepcopy(self.model)
        return attach(model, exclude=pruner.exclude, structure=pruner.structure)


def works(
    recipe: Recipe, data: Splits, *, world: int = 1, max_steps: int | None = None
) -> list[Work]:
    """The work of a run in its order: each network's stages, and each evaluator's images.

    Args:
        recipe: resolved.
        data: its images.
        world: the number of processes.
        max_steps: set if stages are cut.
    """
    found = []
    for network in networks(recipe):
        variant = "" if network.pruner is None else network.pruner.variant
        for stage in network.stages:
            if (options := stage.options) is None:
                continue
            objective: Objective = recipe.objective_of(options)
            steps = steps_of(options, data, objective, seed=recipe.seed, world=world)
            steps *= options.epochs - stage.start
            steps = steps if max_steps is None else min(steps, max_steps)
            found.append(Work(network.name, stage.name, steps, variant))
        evaluators: list[Any] = recipe.evaluate if data.test else []
        for evaluator in evaluators:
            there = len(data.test or ())
            images = min(evaluator.samples or there, there)
            found.append(Work(network.name, evaluator.metric, images, judges=True))
    return found


def plan(recipe: Recipe, *, warn: Callable[[str], None] = lambda text: None) -> Plan:
    """Read the data and build the network of a recipe, as `initial_network` does, and check both.

    Raises:
        UsageError: a library that it needs or the data is missing, or the network does not fit it.
    """
    check_installed(recipe)
    data: Splits = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
    model = initial_network(recipe, data, warn=warn)
    check_counts(recipe, data, model)
    check_device(recipe.compute)
    return Plan(recipe, data, model)
