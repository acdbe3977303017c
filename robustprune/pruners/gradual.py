"""Gradual pruning: masks that move while weights are trained, to the asked density at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.optim import Optimizer

from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.schedules import Every, cubic
from robustprune.masking.selection import keep_largest
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss
from robustprune.pruners import register
from robustprune.pruners.base import Closure, Context, Method, Pruner, Stage
from robustprune.pruners.magnitude import MagnitudeMethod, sizes
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


class PrunedWhileTrained(Pruner):
    """The base of pruners that train weights while masks move, and finetune at the exact mask."""

    still = ("finetune",)
    cost = "2 trainings of weights"

    prune: StageChanges = StageChanges()
    """Changes to ``finetune`` for the training in which masks move. Where it is silent, epochs are
    those of ``prune``, if the recipe has that section, and the rate is constant: one that has
    fallen when the last weights go leaves no way back (Zhu and Gupta)."""
    finetune: StageChanges = StageChanges()
    """Changes to ``finetune`` for what is left."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Pruning and finetuning, at rates of weights: both as ``finetune`` says."""
        options = self.section("finetune", recipe)
        epochs = recipe.get("prune", options).epochs
        prune = self.prune.over(StageChanges(epochs=epochs, schedule="constant").over(options))
        return [Stage("prune", prune), Stage("finetune", self.finetune.over(options))]


@register("gradual")
class Gradual(PrunedWhileTrained):
    """Keep ever fewer of the largest weights while they are trained.

    In ``prune`` the density falls from ``initial`` to the asked one, ``d + (initial − d)·(1 − t)³``
    at t, the share of the stretch of ``every`` that lies behind; the mask at each update is that of
    the largest |w|. Then what is left is finetuned. The source prunes each layer alike (uniform).

    Ranked are all weights, as in the source's code: no gradient reaches what is pruned, and its
    value stays (but for weight decay and what momentum is left), so that a weight that was larger
    than kept ones have become comes back with it. The first step after the stretch sets the asked
    density, which the ramp at its last update may miss.
    """

    source = "Zhu, Gupta 2017, To prune, or not to prune, arXiv 1710.01878"

    initial: float = Field(1.0, gt=0, le=1)
    """Density that the ramp starts from."""
    every: Every = Every()
    """When the density falls. The source takes 100 to 1000 steps from one update to the next (10 in
    its code), and trains on at the final density."""

    @field_validator("structure")
    @classmethod
    def _any_density(cls, structure: Structure) -> Structure:
        if structure.registered_name == "n_m":
            raise ValueError(
                "'n_m' has one density, and the ramp goes through others: use 'weight'"
            )
        return structure

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The ramp, and finetuning."""
        if self.initial < density:
            raise UsageError(
                f"pruner '{self.variant}': initial is {self.initial:g}, below the asked density "
                f"{density:g}. Start from more, e.g. 1."
            )
        return super().stages(density, recipe)

    def method(self, context: Context) -> Method:
        """A fresh method, which follows the ramp."""
        return GradualMethod(self, context)


class GradualMethod(MagnitudeMethod):
    """The density falls in `after_step`; ``finetune`` begins with the asked one."""

    def __init__(self, pruner: Gradual, context: Context) -> None:
        super().__init__(pruner, context)
        self.density = pruner.initial

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest |weight|."""
        self.keep_largest(masked, self.density if stage.name == "prune" else None)

    def after_step(
        self, stage: Stage, masked: MaskedModel, optimizer: Optimizer, progress: Progress
    ) -> None:
        """Go down the ramp when it is time."""
        every = self.pruner.every
        over = progress.fraction >= every.stop and self.density > self.context.density
        if stage.name == "prune" and (every.due(progress) or over):
            self.density = cubic(self.pruner.initial, self.context.density, every.done(progress))
            self.keep_largest(masked, self.density)

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The density, while it falls."""
        return {"density": masked.kept / masked.prunable} if stage.name == "prune" else {}

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """Epochs at the asked density; those before it would nearly always be better."""
        return stage.name != "prune" or self.density == self.context.density

    def state_dict(self) -> dict[str, Any]:
        """The density of the last update."""
        return {"density": self.density}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        self.density = state["density"]


@register("dns")
class DynamicNetworkSurgery(PrunedWhileTrained):
    """Prune and splice: small weights leave the mask, and come back when they have grown.

    In ``prune`` each layer's mask is renewed before a step with probability
    ``(1 + gamma·t)^−power``, t the share of ``stop`` that lies behind: what is at most
    ``(1 − margin)·threshold`` is pruned, what is above ``(1 + margin)·threshold`` is kept, and the
    rest stays as it is. The gradient at the masked weights moves all of them, pruned ones too, so
    that those can come back. Then the exact mask of the largest is set, and finetuned.

    The threshold is the |w| that the asked density keeps last, anew at each update, and the density
    stays a little above the asked one, by what lies between. In the source the threshold is
    ``max(μ + c_rate·σ, 0)``, μ and σ of the layer's |w| at the start, and the density is what comes
    out: ``c_rate`` asks for that rule; the density is shown as a curve, and ends exact all the
    same. Here a layer keeps its largest entry whatever the threshold; the source may empty it, and
    masks biases too. Its example takes 14,000 steps with the mask moving; how many come after them
    is not stated.
    """

    source = "Guo et al. 2016, Dynamic network surgery, arXiv 1608.04493"
    cost = "2 trainings of weights, the first with gradients of all"

    c_rate: float | None = None
    """Set the threshold by μ and σ of each layer at the start, so many σ above μ; the source's
    example takes 4. Absent: by the asked density."""
    margin: float = Field(0.1, ge=0, lt=1)
    """Distance of either threshold from the one between, as a share of it."""
    gamma: float = Field(1.4, ge=0)
    """Fall of the probability that a mask is renewed. The source's 1e-4 a step comes to 1.4 in its
    14,000 steps."""
    power: float = Field(1.0, ge=0)
    """Exponent of that fall."""
    stop: float = Field(0.75, gt=0, le=1)
    """Share of the stage after which masks stay; the source's share is not stated."""

    def method(self, context: Context) -> Method:
        """A fresh method, which prunes and splices."""
        return SurgeryMethod(self, context)


class SurgeryMethod(MagnitudeMethod):
    """Masks move in `step`; ``finetune`` begins with the exact one."""

    pruner: DynamicNetworkSurgery

    def __init__(self, pruner: DynamicNetworkSurgery, context: Context) -> None:
        super().__init__(pruner, context)
        self.thresholds: dict[str, float] = {}

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """The thresholds that stay; or the exact mask."""
        if stage.name != "prune":
            super().begin(stage, masked)
        elif (rate := self.pruner.c_rate) is not None:
            for name, entry in self.entries(masked).items():
                threshold = float(entry.mean() + rate * entry.std(correction=0))
                self.thresholds[name] = max(threshold, 0.0)

    def step(
        self,
        stage: Stage,
        masked: MaskedModel,
        closure: Closure,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Loss:
        """Renew masks, and move all weights by the gradient at the masked ones."""
        if stage.name != "prune":
            return super().step(stage, masked, closure, optimizer, progress)
        if progress.fraction < self.pruner.stop:
            self.operate(masked, progress)
        with masked.dense_gradients():
            return super().step(stage, masked, closure, optimizer, progress)

    def operate(self, masked: MaskedModel, progress: Progress) -> None:
        """Renew the masks of the layers whose turn it is."""
        pruner = self.pruner
        chance = (1 + pruner.gamma * progress.fraction / pruner.stop) ** -pruner.power
        turns = torch.rand(len(masked.weights), generator=self.context.generator) < chance
        if not turns.any():
            return
        entries = self.entries(masked)
        thresholds = self.thresholds or self.quantiles(masked, entries)
        masks = {}
        for (name, entry), turn in zip(entries.items(), turns.tolist(), strict=True):
            if turn:
                mask, structure = masked.masks[name], masked.structure
                before = structure.reduce(mask.float()) > 0
                masks[name] = structure.expand(self.spliced(entry, before, thresholds[name]), mask)
        masked.set(masks)

    def spliced(self, entry: Tensor, mask: Tensor, threshold: float) -> Tensor:
        """A layer's new mask; its largest entry is always in it."""
        low, high = (1 - self.pruner.margin) * threshold, (1 + self.pruner.margin) * threshold
        return (mask & (entry > low)) | (entry > high) | (entry == entry.max())

    def entries(self, masked: MaskedModel) -> dict[str, Tensor]:
        """|w| of each entry."""
        return {name: masked.structure.reduce(size) for name, size in sizes(masked).items()}

    def quantiles(self, masked: MaskedModel, entries: Mapping[str, Tensor]) -> dict[str, float]:
        """The smallest entry that each layer keeps at the asked density."""
        allocation: Allocation = self.pruner.allocation
        shapes = {name: weight.shape for name, weight in masked.weights.items()}
        counts = allocation(entries, self.context.density, shapes)
        return {n: float(e[keep_largest(e, counts[n])].min()) for n, e in entries.items()}

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The density that comes out, and the distance from the first mask."""
        if stage.name != "prune":
            return {}
        return {"density": masked.kept / masked.prunable, "turnover": masked.turnover}

    def state_dict(self) -> dict[str, Any]:
        """The thresholds that stay."""
        return {"thresholds": self.thresholds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.thresholds = state["thresholds"]
