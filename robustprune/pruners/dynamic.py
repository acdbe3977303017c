"""Dynamic sparse training: from scratch, with connections that move while weights are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.schedules import Every
from robustprune.masking.selection import init_scores, keep_largest
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss
from robustprune.pruners import register
from robustprune.pruners.base import Closure, Context, Method, Pruner, Stage, reset_grown
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress

NOISE = 1e-5
"""Deviation of what is added to |w| before the smallest are dropped, which decides ties."""


@register("rigl")
class RigL(Pruner):
    """Drop the smallest weights, grow where gradients are largest.

    With ``growth: random`` it is SET (Mocanu et al. 2018). The gradient is that of the robust loss,
    for all weights, on the step's batch; as in the source, such a step moves no weight.
    """

    source = "Evci et al. 2020, Rigging the lottery, arXiv 1911.11134"
    cost = "1 training from scratch"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "erk"})]
    """The shares of the first, random mask; each layer stays at its own."""
    growth: Literal["gradient", "random"] = "gradient"
    """Connections grow where gradients are largest, or anywhere."""
    fraction: float = Field(0.3, gt=0, lt=1)
    """Share of a layer's kept weights that the first change drops; it falls along half a cosine."""
    every: Every = Every()
    """When connections move."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    @field_validator("structure")
    @classmethod
    def _weights_only(cls, structure: Structure) -> Structure:
        if structure.registered_name != "weight":
            raise ValueError("single weights are dropped and grown here: use 'weight'")
        return structure

    def needs(self) -> tuple[str, ...]:
        """The network before training."""
        return ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch."""
        return [Stage("train", self.train.over(self.section("pretrain", recipe)))]

    def method(self, context: Context) -> Method:
        """A fresh method, which moves the connections."""
        return RigLMethod(self, context)


class RigLMethod(Method):
    """The mask is random in `begin`, and moves in `step`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """A random mask."""
        generator, weights = self.context.generator, masked.weights.items()
        self.keep(masked, {n: init_scores(w, "random", generator) for n, w in weights})

    def step(
        self,
        stage: Stage,
        masked: MaskedModel,
        closure: Closure,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Loss:
        """An ordinary step, or one that moves connections instead of weights."""
        if not self.pruner.every.due(progress):
            return super().step(stage, masked, closure, optimizer, progress)
        with masked.dense_gradients():
            loss = closure()
        change = masked.set({name: self.moved(masked, name, progress) for name in masked.weights})
        reset_grown(masked, optimizer, change)
        return loss

    def moved(self, masked: MaskedModel, name: str, progress: Progress) -> Tensor:
        """A layer's new mask, with as many weights as before."""
        weight, mask = masked.weights[name], masked.masks[name]
        kept = int(mask.sum())
        decay = (1 + math.cos(math.pi * self.pruner.every.done(progress))) / 2
        drop = min(int(self.pruner.fraction * decay * kept), mask.numel() - kept)
        noise = NOISE * torch.randn(weight.shape, generator=self.context.generator)
        size = weight.detach().abs() + noise.to(weight)
        stay = keep_largest(size.masked_fill(~mask, -math.inf), kept - drop)
        if self.pruner.growth == "random":
            growth = init_scores(weight, "random", self.context.generator)
        else:
            assert weight.grad is not None
            growth = weight.grad.abs()
        return stay | keep_largest(growth.masked_fill(stay, -math.inf), drop)

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The distance from the first mask."""
        return {"turnover": masked.turnover}
