"""TwinRep: weights as products of two trained factors, pruned early in one training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.selection import init_scores
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


@register("twinrep")
class TwinRep(Pruner):
    """Train each weight as a product W·A, and prune what is small early on.

    From scratch, with A of the weight's shape, drawn as torch draws weights: uniform within
    ``1 / √fan_in``. After a share of the epochs the largest |W·A| are kept, or under a structure
    the entries with the largest ``Σ (W·A)²``; that mask stays, and the training goes on. Weight
    decay acts on both factors, which draws their product to zeros. At the end they become one plain
    weight.

    The first products are far smaller than weights are, about by ``√(3·fan_in)``, which norm layers
    make up for; a network that has none needs ``rescale``, of which the source knows nothing.

    The reference prunes filters by setting their A to 0 once; training then moves it off 0 again,
    as W is not 0. It leaves linear layers dense under that structure, and here they are pruned but
    for the outputs; `exclude` says otherwise. Its export is W·A·M, as here. Its variant with
    a square A that mixes filters is left out.
    """

    source = "Li et al. 2023, TwinRep, AAAI 2023"
    cost = "1 training from scratch"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    after: float = Field(0.09, gt=0, lt=1)
    """Share of the epochs, one at least, after which the mask is set; the source has 9 of 100."""
    rescale: bool = False
    """Multiply A by one number a layer at first, so that W·A has the norm that W has."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    def needs(self) -> tuple[str, ...]:
        """The network before training."""
        return ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch; its mask is set afterwards if it ended too early."""
        return [
            Stage("train", self.train.over(self.section("pretrain", recipe))),
            Stage("select", None),
        ]

    def method(self, context: Context) -> Method:
        """A fresh method, which holds the factors."""
        return TwinRepMethod(self, context)


class Factor(nn.Module):
    """Multiplies a weight, element by element.

    Attributes:
        factor: A, of the weight's shape; ones at first.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """``W·A``."""
        return weight * self.factor


class TwinRepMethod(Method):
    """The mask is set after an epoch of ``train``.

    Attributes:
        pruned: True once the mask is set.
    """

    pruner: TwinRep

    def __init__(self, pruner: TwinRep, context: Context) -> None:
        super().__init__(pruner, context)
        self.pruned = False
        self._factors: dict[str, Factor] = {}

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        """The factors."""

        def make(name: str, weight: Tensor) -> Factor:
            self._factors[name] = Factor(weight)
            return self._factors[name]

        masked.reparametrize(make)

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Draw the factors; or set the mask, if it is not."""
        if stage.name == "train":
            for name, factor in self._factors.items():
                self._draw(factor.factor.data, masked.weights[name].detach())
        elif not self.pruned:
            self._prune(masked)

    def _draw(self, factor: Tensor, weight: Tensor) -> None:
        factor.copy_(init_scores(weight, "kaiming", self.context.generator))
        if self.pruner.rescale:
            factor.mul_(weight.norm() / (weight * factor).norm().clamp_min(1e-12))

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Set the mask when it is time."""
        due = max(1, round(self.pruner.after * progress.epochs))
        if not self.pruned and progress.epoch + 1 >= due:
            self._prune(masked)
        return {}

    def _prune(self, masked: MaskedModel) -> None:
        single = masked.structure.registered_name == "weight"
        seen = {name: weight.detach() for name, weight in masked.unmasked().items()}
        self.keep(masked, {n: w.abs() if single else w.square() for n, w in seen.items()})
        self.pruned = True

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """Epochs after the mask was set."""
        return self.pruned

    def state_dict(self) -> dict[str, Any]:
        """Tell if the mask is set."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        self.pruned = state["pruned"]
