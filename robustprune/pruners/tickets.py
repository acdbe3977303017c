"""Tickets: masks found by training, for the weights as they were, or as the search leaves them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.structures import NOfM
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.pruners.magnitude import MagnitudeMethod, sizes
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


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

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """A structure that has not the densities of the rounds."""
        yield from super().problems(stage, objective)
        if isinstance(self.structure, NOfM):
            ratio = self.structure.n / self.structure.m
            if len(self.rounds(ratio)) > 1:
                one = math.ceil(1e4 * (1 - ratio)) / 1e4
                yield (
                    f"its rounds pass densities that structure 'n_m' has not, as rate is "
                    f"{self.rate:g}: set rate: {one:g} or more, or use structure: weight"
                )

    def method(self, context: Context) -> Method:
        """A fresh method, which prunes and rewinds."""
        return LotteryMethod(self, context)


class LotteryMethod(Method):
    """Prunes and rewinds in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest of the weights that are left, and rewind."""
        number = int(stage.name.removeprefix("train-"))
        density = self.pruner.rounds(self.context.density)[number - 1]
        self.keep(masked, self.left(masked, sizes(masked)), density)
        masked.load(self.context.checkpoints[self.pruner.origin])


class EarlyTicket(Pruner):
    """The base of pruners that train from scratch twice: for the mask, and under it."""

    still = ("train",)

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    search: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training that finds the mask."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training under it."""

    def needs(self) -> tuple[str, ...]:
        """The network before training."""
        return ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The search, and the training of what it keeps."""
        options = self.section("pretrain", recipe)
        search = self.search.over(self.usual_search(options).over(options))
        return [Stage("search", search), Stage("train", self.train.over(options))]

    def usual_search(self, options: StageOptions) -> StageChanges:
        """Changes to ``pretrain`` for a search, where ``search`` is silent."""
        return StageChanges()


@register("robust_bird")
class RobustBird(EarlyTicket):
    """Train until the mask of the largest weights stands still, then train robustly under it.

    The search is standard training, which costs a fraction of a robust one. After each of its
    epochs the mask of the asked density is taken, of the largest weights; the search ends after the
    first epoch whose mask differs from each of the four before it in at most ``distance`` of all
    entries, or with its last epoch. The network is pruned by the weights as they are then, which
    stay (nothing is rewound), and trained under the recipe's objective, with a fresh optimizer and
    schedule.

    Two masks of density d differ in at most 2·d of all entries, so at 4 % and below the source's
    0.08 holds for any two, and the search ends after five epochs whatever it has found; the source
    keeps 20 %. ``relative`` counts by what can differ. The reference masks convolutions alone,
    keeps one weight too few, and has no floor; here all prunable weights share the threshold, and
    each layer keeps one at least.
    """

    source = "Chen et al. 2022, Sparsity winning twice, arXiv 2202.09844"
    cost = "part of a standard training, then 1 training"

    standard: bool = True
    """Search by standard training, as the source does, where ``search`` names no objective; else by
    that of ``pretrain`` or of the recipe."""
    masks: int = Field(5, ge=2)
    """Masks of the last epochs that are compared."""
    distance: float = Field(0.08, ge=0, le=1)
    """Hamming distance from the newest mask to each of the others at which the search ends: the
    share of all entries that differ."""
    relative: bool = False
    """Count the distance as a share of the entries that can differ in two masks of the density."""

    def usual_search(self, options: StageOptions) -> StageChanges:
        """Standard training."""
        return StageChanges(objective="benign") if self.standard else StageChanges()

    def method(self, context: Context) -> Method:
        """A fresh method, which compares masks."""
        return RobustBirdMethod(self, context)


class RobustBirdMethod(MagnitudeMethod):
    """Masks of the last epochs in ``search``; the mask is set where ``train`` begins."""

    pruner: RobustBird

    def __init__(self, pruner: RobustBird, context: Context) -> None:
        super().__init__(pruner, context)
        self.last: list[dict[str, Tensor]] = []

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest weights, once the search is over."""
        if stage.name == "train":
            self.last = []
            super().begin(stage, masked)

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Take the epoch's mask; shows its largest distance from those before it."""
        if stage.name != "search":
            return {}
        mask = self.masks(masked, sizes(masked), self.context.density)
        self.last = [*self.last, mask][-self.pruner.masks :]
        return {"mask_distance": max(self.distances())} if len(self.last) > 1 else {}

    def finished(self, stage: Stage, masked: MaskedModel) -> bool:
        """End the search when its mask stands still."""
        if stage.name != "search" or len(self.last) < self.pruner.masks:
            return False
        return max(self.distances()) <= self.pruner.distance

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """No epoch of the search: it ends with the weights whose mask has stood still."""
        return stage.name != "search"

    def distances(self) -> list[float]:
        """The share of entries in which the newest mask differs from each one before it."""
        *before, newest = self.last
        possible = sum(mask.numel() for mask in newest.values())
        if self.pruner.relative:
            kept = sum(int(mask.sum()) for mask in newest.values())
            possible = max(2 * min(kept, possible - kept), 1)
        return [
            sum(int((mask ^ newest[name]).sum()) for name, mask in other.items()) / possible
            for other in before
        ]

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.last = state["last"]


@register("boosting")
class Boosting(EarlyTicket):
    """Train briefly at a high rate, keep the largest weights, rewind, and train again.

    One round of lottery tickets, found early: the search trains the first ``stop`` of the epochs
    at a constant learning rate, one threshold cuts |w|, of each layer in units of its mean, to the
    asked density, and weights go back to where they began, norms and statistics too.

    Boosting, as the authors call it, is that such a subnetwork converges in fewer epochs than the
    dense network. What we have read of them (abstract, repository) says that it depends on the
    learning rate, the pruning ratio and the network's size, not how to stop early: their scripts
    search for as many epochs as they train, at a step schedule, which is ``stop: 1`` and
    ``search: {schedule: step}`` here. They keep 20 %, find masks at another rate than the one that
    they train at, and for TRADES by FGSM, which ``search: {objective: fgsm}`` asks for.
    """

    source = "Li et al. 2020, Towards practical lottery ticket hypothesis, arXiv 2003.05733"
    cost = "part of a training (stop), then 1 training"

    stop: float = Field(0.2, gt=0, le=1)
    """Epochs of the search, as a share of those of ``pretrain``; ``search.epochs`` comes first. Our
    choice; the source's scripts take all."""
    by_mean: bool = True
    """Compare |w| in units of its layer's mean, as the reference does; else as it is."""

    def usual_search(self, options: StageOptions) -> StageChanges:
        """Few epochs, at a constant rate."""
        return StageChanges(epochs=max(1, round(self.stop * options.epochs)), schedule="constant")

    def method(self, context: Context) -> Method:
        """A fresh method, which prunes and rewinds."""
        return BoostingMethod(self, context)


class BoostingMethod(Method):
    """Prunes and rewinds where ``train`` begins."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest weights, once the search is over, and rewind."""
        if stage.name == "train":
            importance = sizes(masked)
            if self.pruner.by_mean:
                importance = {
                    n: size / size.mean().clamp_min(1e-30) for n, size in importance.items()
                }
            self.keep(masked, importance)
            masked.load(self.context.checkpoints["init"])
