"""Nothing is learned: the largest weights, at once or round by round, and weights at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from robustprune.components import PartOf
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.selection import init_scores
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions


class OneShot(Pruner):
    """The base of pruners that set the mask once, and finetune what is left."""

    still = ("finetune",)

    equal_compute: bool = False
    """Finetune for prune + finetune epochs: as long as a method that learns trains in all."""
    finetune: StageChanges = StageChanges()
    """Changes to the section ``finetune``."""

    cost = "1 training of weights"

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Finetuning; without such a section the mask alone is set."""
        options = recipe.get("finetune")
        options = options and self.finetune.over(options)
        if options is not None and self.equal_compute:
            more = self.section("prune", recipe).epochs
            options = options.model_copy(update={"epochs": options.epochs + more})
        return [Stage("finetune", options)]


@register("magnitude")
class Magnitude(OneShot):
    """Keep the largest weights, or entries of them; the paper's LWM."""

    source = "Han et al. 2015, Learning both weights and connections, arXiv 1506.02626"

    def method(self, context: Context) -> Method:
        """A fresh method, which sets the mask."""
        return MagnitudeMethod(self, context)


class MagnitudeMethod(Method):
    """The mask is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest |weight|."""
        self.keep(masked, {name: w.detach().abs() for name, w in masked.unmasked().items()})


@register("random")
class Random(OneShot):
    """Keep entries at random: the baseline that every method must beat."""

    source = "the control of every comparison"

    def method(self, context: Context) -> Method:
        """A fresh method, which sets the mask."""
        return RandomMethod(self, context)


class RandomMethod(Method):
    """The mask is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the entries whose numbers, uniform in [0, 1), are largest."""
        importance = {}
        for name, weight in masked.weights.items():
            sizes = masked.structure.reduce(torch.ones_like(weight))
            drawn = init_scores(sizes, "random", self.context.generator)
            importance[name] = masked.structure.expand(drawn / sizes, weight)  # sums are `drawn`
        self.keep(masked, importance)


@register("lottery")
class Lottery(Pruner):
    """Iterative magnitude pruning with rewinding.

    Round i keeps the largest ``(1 − rate)^i`` of the weights of the round before, the last one the
    asked density exactly, and trains them from where they were after ``rewind`` epochs of
    pretraining to its end. Every round minimises the robust objective. Density 0.1 takes 11 rounds.
    """

    still = ("train",)
    source = (
        "Frankle et al. 2019, 2020, The lottery ticket hypothesis, arXiv 1803.03635, 1912.05671"
    )
    cost = "1 training of the dense network, 1 for each round"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    rate: float = Field(0.2, gt=0, lt=1)
    """Share of the remaining weights that a round prunes."""
    rewind: int = Field(0, ge=0)
    """Epochs of pretraining that weights go back to, norms and statistics too; 0: to none."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the rounds."""

    def needs(self) -> tuple[str, ...]:
        """The trained dense network, and it as it was."""
        return ("dense", self.origin)

    @property
    def origin(self) -> str:
        """The need that weights are rewound to."""
        return f"pretrain@{self.rewind}" if self.rewind else "init"

    def rounds(self, density: float) -> list[float]:
        """The density after each round."""
        count = max(1, math.ceil(math.log(density) / math.log(1 - self.rate) - 1e-9))
        return [*((1 - self.rate) ** number for number in range(1, count)), density]

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training a round, from the rewound epoch to the end."""
        options = self.train.over(self.section("pretrain", recipe))
        if self.rewind >= options.epochs:
            raise UsageError(
                f"pruner '{self.variant}': rewind is {self.rewind}, and a round trains to epoch "
                f"{options.epochs}. Rewind to fewer."
            )
        count = len(self.rounds(density))
        return [Stage(f"train-{number}", options, self.rewind) for number in range(1, count + 1)]

    def method(self, context: Context) -> Method:
        """A fresh method, which prunes and rewinds."""
        return LotteryMethod(self, context)


class LotteryMethod(Method):
    """Prunes and rewinds in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest of the weights that are left, and rewind."""
        number = int(stage.name.removeprefix("train-"))
        density = self.pruner.rounds(self.context.density)[number - 1]
        importance = {
            name: weight.detach().abs().masked_fill(~masked.masks[name], -1.0)
            for name, weight in masked.weights.items()
        }
        self.keep(masked, importance, density)
        masked.load(self.context.checkpoints[self.pruner.origin])
