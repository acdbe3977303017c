"""From what was measured, the machines and the recipe to a step's parts, hours and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scaling_model import Cluster, Work, evaluation, step

from robustprune.datasets.source import TensorSource

WORLDS = (1, 8, 64)


@dataclass(frozen=True)
class Study:
    """What is to be told: costs, machines by precision, the recipe, and images of the data."""

    measured: dict[str, Any]
    clusters: dict[str, Cluster]
    recipe: Any
    training: int
    test: int

    @property
    def read(self) -> float:
        """Images a second of a core."""
        return float(self.measured["reading"]["a_second"])

    def work(self, name: str, precision: str) -> Work:
        """A step of a phase."""
        found = self.measured["phases"][name]
        keys = ("operators", "selecting", "gradients", "touched", "selected", "norms", "sums")
        state = sum(found[key] for key in ("weights", "scores", "masks", "momenta"))
        return Work(
            image=found["flops"],
            backward=1 - found["forward"] / found["flops"],
            state=state + found["kept_once"][precision],
            activations=found["activations"][precision] + found["noise"],
            repeats=self.recipe.objective.repeats,
            **{key: found[key] for key in keys},
        )

    def step(self, name: str, precision: str, world: int, **options: Any) -> dict[str, float]:
        """Seconds of the parts of a step."""
        work = options.pop("work", self.work(name, precision))
        batch = options.pop("batch", self.recipe.stages[name].batch_size)
        cluster = self.clusters[precision]
        return step(work, cluster, batch=batch, world=world, read=self.read, **options)

    def hours(self, name: str, precision: str, world: int, *, grown: int = 1) -> float:
        """A whole phase, on ``grown`` times as many images."""
        options, found = self.recipe.stages[name], self.measured["phases"][name]
        images = grown * self.training
        source = TensorSource(torch.empty(images, 0), torch.empty(images, dtype=torch.uint8))
        steps = source.steps(options.batch_size, world=world) * self.recipe.objective.repeats
        after = found["state"]["digest"] * (world > 1) + found["state"]["seconds"]
        before = self.measured["drawing"]["order"] * grown
        epoch = steps * self.step(name, precision, world)["step"] + before + after
        return options.epochs * epoch / 3600

    def attacking(self, world: int, *, grown: int = 1) -> float:
        """Hours of the recipe's attack on all test images, or on ``grown`` times as many."""
        operations = self.measured["attack"]["flops"]
        return self.judging(world, images=grown * self.test, operations=operations)

    def judging(self, world: int, *, images: int, operations: float) -> float:
        """Hours to judge images; evaluation is in fp32 whatever the training is in."""
        (batch,) = {part.batch_size for part in self.recipe.evaluate}
        options = {"images": images, "batch": batch, "world": world, "read": self.read}
        return evaluation(operations, self.clusters["fp32"], **options) / 3600

    def whole(self, precision: str, world: int) -> float:
        """Hours of the recipe: a dense network, each method at each density, and judging them."""
        prune = self.recipe.prune
        pruned = len(prune.methods) * len(prune.densities)
        learned = sum(method.registered_name == "hydra" for method in prune.methods)
        phases = {"pretrain": 1, "prune": learned * len(prune.densities), "finetune": pruned}
        hours = sum(n * self.hours(name, precision, world) for name, n in phases.items())
        return hours + (1 + pruned) * self.attacking(world)


def shown(hours: float) -> str:
    """Two digits at least."""
    return f"{hours:.2g}" if hours < 1 else f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"
