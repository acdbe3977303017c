"""Nothing is learned: the largest weights, and weights at random."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustprune.masking import Change, MaskedModel
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
        self.keep_largest(masked)

    def keep_largest(self, masked: MaskedModel, density: float | None = None) -> Change:
        """Keep the largest |weight|, pruned ones among them; see `keep`."""
        return self.keep(masked, sizes(masked), density)


def sizes(masked: MaskedModel) -> dict[str, Tensor]:
    """|weight|, of pruned ones too, by the weight's name."""
    return {name: weight.detach().abs() for name, weight in masked.unmasked().items()}


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
