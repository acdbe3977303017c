"""Pruning before training: which connections of an untrained network its loss depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions
from robustprune.train_mode import eval_mode
from robustprune.types import Progress


@register("snip")
class Snip(Pruner):
    """Keep the largest |g·w|, g the loss's gradient before training.

    The loss is the recipe's objective at its full radius, attack included, so that connections
    count by what the robust loss loses with them. In the source the scored network and the one
    that is trained are two initialisations; no layer has a floor, and whole layers can become
    empty at low densities. Here each keeps a weight, and norms and biases are never pruned.
    """

    still = ("train",)
    source = "Lee et al. 2019, SNIP, arXiv 1810.02340"
    cost = "1 training from scratch"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    batch_size: int = Field(128, ge=1)
    """Images that the gradient is taken on, in one batch."""
    fresh: bool = True
    """Train another initialisation than the one that was scored, as the source does."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    def needs(self) -> tuple[str, ...]:
        """The network before training, and another one to train."""
        return ("init", "fresh") if self.fresh else ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch."""
        return [Stage("train", self.train.over(self.section("pretrain", recipe)))]

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return SnipMethod(self, context)


class SnipMethod(Method):
    """The mask is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Score, mask, and take the network to train."""
        gradients = self.gradients(stage, masked)
        weights = masked.weights
        self.keep(masked, {n: (g * weights[n].detach()).abs() for n, g in gradients.items()})
        if self.pruner.fresh:
            masked.load(self.context.checkpoints["fresh"])

    def gradients(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """Gradients of the objective's loss on one batch, with the network in eval mode."""
        images, labels = next(self.context.batches(self.pruner.batch_size))
        for weight in masked.weights.values():
            weight.requires_grad_(True)
        objective = self.objective(stage).fresh()
        progress = Progress(stage="scoring")  # no ramp acts in it: the radius is all of itself
        with self.drawing(), eval_mode(masked.model), masked.cached():
            loss = objective(masked.model, images, labels, progress)
            gradients = torch.autograd.grad(loss.total, list(masked.weights.values()))
        return dict(zip(masked.weights, gradients, strict=True))
