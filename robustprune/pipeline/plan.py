"""What a recipe would do, found out without training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustprune.masking import prunable_layers
from robustprune.pipeline.counts import check_counts
from robustprune.pipeline.network import initial_network
from robustprune.pipeline.phases import finetune_epochs, phase_data
from robustprune.pruners import LearnedPruner
from robustprune.seeding import fork
from robustprune.tracking import RUNS, describe_store

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits
    from robustprune.pruners import Pruner
    from robustprune.recipe import PhaseOptions, Recipe
    from robustprune.types import PhaseName

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Plan:
    """A recipe with its data read and its network built."""

    recipe: Recipe
    data: Splits
    model: nn.Module

    def kept(self) -> Table:
        """Weights kept in each layer, a column for each pruned network.

        An allocation that follows the scores is shown for the untrained network.
        """
        layers = prunable_layers(self.model)
        columns = {name: self._counts(method, density) for name, method, density in self._pruned()}
        rows = [
            [name, "×".join(map(str, layer.weight.shape)), f"{layer.weight.numel():,}"]
            + [f"{counts[name]:,}" for counts in columns.values()]
            for name, layer in layers.items()
        ]
        total = sum(layer.weight.numel() for layer in layers.values())
        sums = [f"{sum(counts.values()):,}" for counts in columns.values()]
        rows.append(["all", "", f"{total:,}", *sums])
        return ["layer", "shape", "dense", *columns], rows

    def steps(self) -> Table:
        """Optimizer steps of each network's phases."""
        recipe = self.recipe
        rows = []
        if recipe.pretrain is not None:
            rows.append(["dense", "pretrain", *self._cost("pretrain", recipe.pretrain)])
        for name, method, _ in self._pruned():
            if isinstance(method, LearnedPruner) and recipe.prune is not None:
                rows.append([name, "prune", *self._cost("prune", recipe.prune)])
            if recipe.finetune is not None:
                epochs = finetune_epochs(recipe, method)
                rows.append([name, "finetune", *self._cost("finetune", recipe.finetune, epochs)])
        total = sum(int(row[-1].replace(",", "")) for row in rows)
        rows.append(["all", "", "", "", f"{total:,}"])
        return ["network", "phase", "epochs", "steps an epoch", "steps"], rows

    def paths(self) -> list[str]:
        """What a run would write, the run's id left open."""
        folder = RUNS / self.recipe.name / "<id>"
        files = ["recipe.yaml", "results.json", "dense/model.safetensors"]
        files += ["dense/history.json"] if self.recipe.pretrain is not None else []
        for name, method, _ in self._pruned():
            files.append(f"{name}/model.safetensors")
            if isinstance(method, LearnedPruner) or self.recipe.finetune is not None:
                files.append(f"{name}/history.json")
        if self.recipe.evaluate:
            files += [f"{name}/images.parquet" for name in ("dense", *self._names())]
        files += [f"imports/{file.name}" for file in self.recipe.files.values()]
        if self.recipe.tracking.enabled and self.recipe.tracking.report:
            files.append("report/report.html")
        store = describe_store(self.recipe.tracking, RUNS)
        return [*(str(folder / file) for file in files), store]

    def _names(self) -> list[str]:
        return [name for name, *_ in self._pruned()]

    def _pruned(self) -> list[tuple[str, Pruner, float]]:
        prune = self.recipe.prune
        if prune is None:
            return []
        methods: list[Pruner] = prune.methods  # type: ignore[assignment]
        return [(m.network(d), m, d) for m in methods for d in prune.densities]

    def _counts(self, method: Pruner, density: float) -> dict[str, int]:
        with fork(self.recipe.seed, "plan"):
            masked = method.attach(copy.deepcopy(self.model), density)
        return {layer.name: layer.kept for layer in masked.report()}

    def _cost(self, name: PhaseName, phase: PhaseOptions, epochs: int | None = None) -> list[str]:
        train = phase_data(self.recipe, self.data, name).train
        assert train is not None
        repeats = getattr(self.recipe.objective_of(name), "repeats", 1)
        steps = train.steps(phase.batch_size) * repeats
        epochs = phase.epochs if epochs is None else epochs
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
