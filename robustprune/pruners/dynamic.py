"""Dynamic sparse training: from scratch, with connections that move while weights are trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.errors import UsageError
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


class Rewired(Pruner):
    """The base of pruners that train from scratch while single weights come and go."""

    @field_validator("structure")
    @classmethod
    def _weights_only(cls, structure: Structure) -> Structure:
        if (name := structure.registered_name) != "weight":
            raise ValueError(f"single weights are dropped and grown, no '{name}': use 'weight'")
        return structure

    def needs(self) -> tuple[str, ...]:
        """The network before training."""
        return ("init",)


@register("rigl")
class RigL(Rewired):
    """Drop the smallest weights, grow where gradients are largest.

    From a random mask. At each change a share p of every layer's kept weights, rounded down, is
    dropped, and as many are grown among all others, just dropped ones too; p falls along half a
    cosine. No layer drops more weights than it prunes, so that a dense one stays as it is; the
    source, which masks no dense layer, has no such limit. What grows starts from 0, without
    momentum. The gradient is that of the robust loss, for all weights, on the step's batch; as in
    the source, such a step moves no weight.
    """

    source = "Evci et al. 2020, Rigging the lottery, arXiv 1911.11134"
    cost = "1 training from scratch"

    moves_weights: ClassVar[bool] = False
    """True if the optimizer takes its step before connections move, too."""

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "erk"})]
    """The shares of the first, random mask; each layer stays at its own."""
    growth: Literal["gradient", "random"] = "gradient"
    """Connections grow where gradients are largest, or anywhere."""
    fraction: float = Field(0.3, gt=0, lt=1)
    """Share p of a layer's kept weights that the first change drops."""
    final_fraction: float = Field(0.0, ge=0, lt=1)
    """Share p where the changes stop."""
    every: Every = Every()
    """When connections move."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch."""
        return [Stage("train", self.train.over(self.section("pretrain", recipe)))]

    def method(self, context: Context) -> Method:
        """A fresh method, which moves the connections."""
        return RigLMethod(self, context)

    def dropped(self, progress: Progress) -> float:
        """p: the share of a layer's kept weights to drop."""
        decay = (1 + math.cos(math.pi * self.every.done(progress))) / 2
        return self.final_fraction + (self.fraction - self.final_fraction) * decay


class RigLMethod(Method):
    """The mask is random in `begin`, and moves in `step`."""

    pruner: RigL

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """A random mask."""
        self.keep(masked, {name: self.random(w) for name, w in masked.weights.items()})

    def random(self, weight: Tensor) -> Tensor:
        """Numbers in [0, 1), of the weight's shape."""
        return init_scores(weight, "random", self.context.generator)

    def step(
        self,
        stage: Stage,
        masked: MaskedModel,
        closure: Closure,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Loss:
        """An ordinary step, after which connections move, or one that moves only these."""
        due = self.pruner.every.due(progress)
        dense = due and self.pruner.growth == "gradient"
        with masked.dense_gradients() if dense else nullcontext():
            loss = closure()
        if self.pruner.moves_weights or not due:
            optimizer.step()
        if due:
            moved = {name: self.moved(masked, name, progress) for name in masked.weights}
            reset_grown(masked, optimizer, masked.set(moved))
        return loss

    def moved(self, masked: MaskedModel, name: str, progress: Progress) -> Tensor:
        """A layer's new mask."""
        weight, mask = masked.weights[name], masked.masks[name]
        kept = int(mask.sum())
        drop, grow = self.numbers(kept, mask.numel(), progress)
        noise = NOISE * torch.randn(weight.shape, generator=self.context.generator)
        size = weight.detach().abs() + noise.to(weight)
        stay = keep_largest(size.masked_fill(~mask, -math.inf), kept - drop)
        if self.pruner.growth == "random":
            growth = self.random(weight)
        else:
            assert weight.grad is not None
            growth = weight.grad.abs()
        return stay | keep_largest(growth.masked_fill(stay, -math.inf), grow)

    def numbers(self, kept: int, total: int, progress: Progress) -> tuple[int, int]:
        """How many of a layer's ``kept`` weights to drop, and how many of ``total`` to grow."""
        drop = min(int(self.pruner.dropped(progress) * kept), total - kept)
        return drop, drop

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


@register("set")
class SparseEvolution(RigL):
    """Drop the smallest weights, grow anywhere: sparse evolutionary training.

    RigL but for growth at random, and for weights, which move on every step, as in the code of
    RigL's authors. There p is constant or falls along a cosine; here it falls.
    """

    source = (
        "Mocanu et al. 2018, Scalable training of artificial neural networks with adaptive sparse "
        "connectivity, arXiv 1707.04780"
    )

    moves_weights = True

    growth: Literal["gradient", "random"] = "random"
    """Connections grow anywhere, or where gradients are largest."""


@register("flyingbird")
class FlyingBird(RigL):
    """Train sparse from the first step against the attack, and let connections fly about.

    Layers have ``n / (f·n + 1)`` of their n weights (IGQ), at random first. Every so many steps,
    after the optimizer's, ``⌈p·kept⌉`` of each layer's smallest weights are dropped and as many are
    grown from 0, anywhere, just dropped ones too; layers that are dense stay so. p falls from 0.5
    to 0.005 along half a cosine over the whole training.

    The reference grows each weight with a probability, so that its density drifts, and drops all
    that are equal at the threshold; here numbers are exact. It changes every 900 of 200 · 352
    steps, and every 1,200 in the second half (``--dynamic_fre``, which its scripts set); here the
    distance is the same throughout. As published it fails at its first change, where it reads an
    option that it does not have (``dynamic_sparse``), so its published numbers are of other code.
    """

    source = "Chen et al. 2022, Sparsity winning twice, arXiv 2202.09844"

    moves_weights = True

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "igq"})]
    """The shares of the first, random mask; each layer stays at its own."""
    growth: Literal["gradient", "random"] = "random"
    """Connections grow anywhere, as in the published scripts, or where gradients are largest."""
    fraction: float = Field(0.5, gt=0, lt=1)
    """Share p of a layer's kept weights that the first change drops."""
    final_fraction: float = Field(0.005, ge=0, lt=1)
    """Share p where the changes stop."""
    every: Every = Every(steps=900, stop=1.0)
    """When connections move; shorter trainings than the source's 70,400 steps need fewer steps
    between changes: it makes 78 of them, or 68."""

    def method(self, context: Context) -> Method:
        """A fresh method, which moves the connections."""
        return FlyingBirdMethod(self, context)


class FlyingBirdMethod(RigLMethod):
    """Numbers are rounded up."""

    def numbers(self, kept: int, total: int, progress: Progress) -> tuple[int, int]:
        """⌈p·kept⌉ of a layer that is not dense."""
        drop = 0 if kept == total else math.ceil(self.pruner.dropped(progress) * kept)
        return drop, drop


@register("flyingbird_plus")
class FlyingBirdPlus(FlyingBird):
    """FlyingBird whose density follows robust overfitting: prune on a growing gap, grow on a stall.

    In the second half of the training the last four differences between epochs decide at each
    change. Where the gap between training and validation accuracy rose in half of them or more,
    each layer drops ``⌈0.4·p·kept⌉`` beyond what it grows again; where the validation loss did not
    fall in half of them or more, it grows 1.05 times as many, rounded up. Both may happen at once.

    The density of the source's networks is what came out. Here connections stop to move before the
    end, and the mask is set to the asked density, layers to their shares: the largest weights stay,
    and what is missing is grown at random, from 0. What is left of the training trains that mask,
    and ``select: best`` chooses among its epochs.

    Accuracies are those that the objective shows: on attacked images under ``pgd``, as in the
    source, on clean ones under ``trades``.
    """

    needs_validation = True

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "igq"})]
    """The shares of the first, random mask, and of the last one."""
    every: Every = Every(steps=900, stop=0.9)
    """When connections move; the density is exact from its ``stop`` on. The source's moves to the
    end."""
    start: float = Field(0.5, ge=0, lt=1)
    """Share of the training from which the density moves."""
    window: int = Field(4, ge=1)
    """Differences between epochs that are looked at."""
    threshold: float = Field(0.5, gt=0, le=1)
    """Share of them from which something is done."""
    prune_ratio: float = Field(0.4, ge=0)
    """What is dropped for good, as a share of what is dropped to be grown elsewhere."""
    growth_ratio: float = Field(0.05, ge=0)
    """What is grown in addition, as a share of what is dropped to be grown elsewhere."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch, and the exact density, if it has none yet."""
        return [*super().stages(density, recipe), Stage("select", None)]

    def method(self, context: Context) -> Method:
        """A fresh method, which looks at the epochs."""
        return FlyingBirdPlusMethod(self, context)


class FlyingBirdPlusMethod(FlyingBirdMethod):
    """Holds the gaps and losses of the epochs, and whether the density is the asked one yet."""

    pruner: FlyingBirdPlus

    def __init__(self, pruner: FlyingBirdPlus, context: Context) -> None:
        super().__init__(pruner, context)
        self.gaps: list[float] = []
        self.losses: list[float] = []
        self.exact = False

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """A random mask, or the exact one."""
        if stage.name == "select":
            self.make_exact(masked, None)
        else:
            super().begin(stage, masked)

    def make_exact(self, masked: MaskedModel, optimizer: Optimizer | None) -> None:
        """Keep the largest weights of those that are left, and others at random if they are few."""
        importance = {}
        for name, weight in masked.weights.items():
            others = self.random(weight) - 1.0  # below all that are kept
            importance[name] = torch.where(masked.masks[name], weight.detach().abs(), others)
        reset_grown(masked, optimizer, self.keep(masked, importance))
        self.exact = True

    def numbers(self, kept: int, total: int, progress: Progress) -> tuple[int, int]:
        """FlyingBird's, and those by which the density moves."""
        drop, grow = super().numbers(kept, total, progress)
        if not drop or progress.fraction < self.pruner.start:
            return drop, grow
        p = self.pruner.dropped(progress)
        if self.often([after > before for before, after in self.pairs(self.gaps)]):
            drop = min(drop + math.ceil(p * self.pruner.prune_ratio * kept), kept)
        if self.often([after >= before for before, after in self.pairs(self.losses)]):
            grow = math.ceil(grow * (1 + self.pruner.growth_ratio))
        return drop, min(grow, total - (kept - drop))

    def pairs(self, values: Sequence[float]) -> list[tuple[float, float]]:
        """The last epochs' values, each with the next one."""
        last = values[-self.pruner.window - 1 :]
        return list(itertools.pairwise(last))

    def often(self, happened: Sequence[bool]) -> bool:
        """True if it happened in as many differences as the rule asks for; there must be one."""
        return bool(happened) and sum(happened) >= self.pruner.threshold * len(happened)

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Remember gap and loss; set the exact mask once connections have stopped to move."""
        if "val_loss" not in metrics:
            raise UsageError(
                f"pruner '{self.pruner.variant}' goes by the validation loss, and the data has no "
                "validation split. Set data.validation, e.g. 0.1, or use flyingbird."
            )
        if "accuracy" in metrics:  # in fp16 all steps of an epoch may have overflowed
            self.gaps.append(metrics["accuracy"] - metrics["val_accuracy"])
        self.losses.append(metrics["val_loss"])
        if self.pruner.every.done(progress) == 1:
            self.make_exact(masked, optimizer)
        shown = super().after_epoch(stage, masked, optimizer, progress, metrics)
        return shown | {"density": masked.kept / masked.prunable}

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """Only networks of the asked density."""
        return self.exact

    def state_dict(self) -> dict[str, Any]:
        """Gaps, losses, and if the density is exact."""
        return {"gaps": self.gaps, "losses": self.losses, "exact": self.exact}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.gaps, self.losses = list(state["gaps"]), list(state["losses"])
        self.exact = state["exact"]
