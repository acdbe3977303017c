"""What a recipe would do, found out without training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from robustprune.masking import MaskedModel, attach, prunable_layers, select
from robustprune.pipeline.counts import check_counts
from robustprune.pipeline.network import initial_network
from robustprune.pipeline.stages import Network, networks, pruners_of
from robustprune.tracking import RUNS, describe_store
from robustprune.training.loop import steps_of

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits
    from robustprune.objectives import Objective
    from robustprune.pruners import Pruner, Stage
    from robustprune.recipe import Recipe

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
        """
        layers = prunable_layers(self.model)
        columns = {
            network.name: self._counts(network.pruner, network.density)
            for network in self._networks
            if network.pruner is not None
        }
        rows = [
            [name, "×".join(map(str, layer.weight.shape)), f"{layer.weight.numel():,}"]
            + [f"{counts[name]:,}" for counts in columns.values()]
            for name, layer in layers.items()
        ]
        total = sum(layer.weight.numel() for layer in layers.values())
        sums = [f"{sum(counts.values()):,}" for counts in columns.values()]
        rows.append(["all", "", f"{total:,}", *sums])
        return ["layer", "shape", "dense", *columns], rows

    def left_dense(self) -> dict[str, list[str]]:
        """By pruner, the prunable layers without a mask: excluded, or left by its structure."""
        layers = prunable_layers(self.model)
        found = {}
        for pruner in pruners_of(self.recipe):
            masked = {layer.name for layer in self._attached(pruner).report()}
            found[pruner.variant] = [name for name in layers if name not in masked]
        return found

    def steps(self) -> Table:
        """Optimizer steps of each network's stages."""
        rows = [
            [network.name, stage.name, *self._cost(stage)]
            for network in self._networks
            for stage in network.stages
            if stage.options is not None
        ]
        total = sum(int(row[-1].replace(",", "")) for row in rows)
        rows.append(["all", "", "", "", f"{total:,}"])
        return ["network", "stage", "epochs", "steps an epoch", "steps"], rows

    def paths(self) -> list[str]:
        """What a run would write, the run's id left open."""
        folder = RUNS / self.recipe.name / "<id>"
        files = ["recipe.yaml", "results.json"]
        for network in self._networks:
            files.append(f"{network.name}/model.safetensors")
            if any(stage.options is not None for stage in network.stages):
                files.append(f"{network.name}/history.json")
        if self.recipe.evaluate:
            files += [f"{network.name}/images.parquet" for network in self._networks]
        files += [f"imports/{file.name}" for file in self.recipe.files.values()]
        if self.recipe.tracking.enabled and self.recipe.tracking.report:
            files.append("report/report.html")
        store = describe_store(self.recipe.tracking, RUNS)
        return [*(str(folder / file) for file in files), store]

    @cached_property
    def _networks(self) -> list[Network]:
        return networks(self.recipe)

    def _attached(self, pruner: Pruner) -> MaskedModel:
        model = copy.deepcopy(self.model)
        return attach(model, exclude=pruner.exclude, structure=pruner.structure)

    def _counts(self, pruner: Pruner, density: float) -> dict[str, int]:
        masked = self._attached(pruner)
        importance = {name: weight.detach().abs() for name, weight in masked.weights.items()}
        masked.set(
            select(importance, density, allocation=pruner.allocation, structure=pruner.structure)
        )
        dense = {name: layer.weight.numel() for name, layer in prunable_layers(self.model).items()}
        return dense | {layer.name: layer.kept for layer in masked.report()}

    def _cost(self, stage: Stage) -> list[str]:
        options, recipe = stage.options, self.recipe
        assert options is not None
        objective: Objective = options.objective or recipe.objective  # type: ignore[assignment]
        steps = steps_of(options, self.data, objective, seed=recipe.seed)
        epochs = options.epochs - stage.start
        return [str(epochs), f"{steps:,}", f"{epochs * steps:,}"]


def plan(recipe: Recipe, *, warn: Callable[[str], None] = lambda text: None) -> Plan:
    """Read the data and build the network of a recipe.

    Args:
        recipe: what would be run.
        warn: is told what there is to know about the weights that it starts from.

    Raises:
        UsageError: the data is missing or damaged, or the network does not fit it.
    """
    data: Splits = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
    model = initial_network(recipe, data, warn=warn)
    check_counts(recipe, data, model)
    return Plan(recipe, data, model)
