"""Lottery tickets: train, prune the smallest, rewind, and train again, round after round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from robustprune.errors import UsageError
from robustprune.masking.allocations import Allocation
from robustprune.parts import PartOf
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges

if TYPE_CHECKING:
    from robustprune.masking import MaskedModel
    from robustprune.recipe import StageOptions


@register("lottery")
class Lottery(Pruner):
    """Iterative magnitude pruning with rewinding. Sources: Frankle et al. 2019, 2020.

    Round i keeps the largest ``(1 − rate)^i`` of the weights of the round before, the last one the
    asked density exactly, and trains them from where they were after ``rewind`` epochs of
    pretraining to its end. Every round minimises the robust objective. Density 0.1 takes 11 rounds.
    """

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
