"""The field's baselines, which learn nothing: the largest weights, and weights at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustprune.masking.scores import init_scores
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from robustprune.masking import MaskedModel
    from robustprune.recipe import StageOptions


class OneShot(Pruner):
    """The base of pruners that set the mask once, and finetune what is left."""

    equal_compute: bool = False
    """Finetune for prune + finetune epochs: as long as a method that learns trains in all."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Finetuning; without such a section the mask alone is set."""
        options = recipe.get("finetune")
        if options is not None and self.equal_compute:
            more = self.section("prune", recipe).epochs
            options = options.model_copy(update={"epochs": options.epochs + more})
        return [Stage("finetune", options)]


@register("magnitude")
class Magnitude(OneShot):
    """Keep the largest weights, or entries of them. Source: Han et al. 2015; the paper's LWM."""

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

    def method(self, context: Context) -> Method:
        """A fresh method, which sets the mask."""
        return RandomMethod(self, context)


class RandomMethod(Method):
    """The mask is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the entries whose numbers, uniform in [0, 1), are largest."""
        self.keep(masked, {name: self._drawn(w, masked) for name, w in masked.weights.items()})

    def _drawn(self, weight: Tensor, masked: MaskedModel) -> Tensor:
        """An importance of each weight whose sums over the entries are uniform in [0, 1)."""
        import torch

        sizes = masked.structure.reduce(torch.ones_like(weight))
        drawn = init_scores(sizes, "random", self.context.generator)
        return masked.structure.expand(drawn / sizes, weight)
