"""Training from scratch under another method's mask: the mask alone, without its weights."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from robustprune.masking import MaskedModel
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions


@register("scratch_e")
class ScratchE(Pruner):
    """Another method's mask, a fresh initialisation, as many epochs as pretraining: Scratch-E.

    If it does as well as that method, then the mask was worth something and the weights were not.
    ``allocation`` and ``structure`` have no effect: both are in the mask; layers that ``exclude``
    names stay dense. The initialisation is the network's own; the reference draws that of
    convolutions with a variance for as many weights as are left.
    """

    still = ("train",)
    source = "Liu et al. 2019, Rethinking the value of network pruning, arXiv 1810.05270"
    cost = "1 training from scratch, after that of the mask"

    mask: str = "hydra"
    """The pruner of the recipe, by label, whose mask of the same density is taken."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    @property
    def origin(self) -> str:
        """The need that the mask is."""
        return f"mask:{self.mask}"

    def needs(self) -> tuple[str, ...]:
        """A new initialisation, and the mask."""
        return ("fresh", self.origin)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training."""
        options = self.train.over(self.section("pretrain", recipe))
        epochs = round(options.epochs * self.longer(density))
        return [Stage("train", options.model_copy(update={"epochs": epochs}))]

    def longer(self, density: float) -> float:
        """The epochs, as a multiple of those of pretraining."""
        return 1.0

    def method(self, context: Context) -> Method:
        """A fresh method, which takes the mask over."""
        return ScratchMethod(self, context)


@register("scratch_b")
class ScratchB(ScratchE):
    """Another method's mask, a fresh initialisation, as much computation as pretraining: Scratch-B.

    Epochs are those of pretraining divided by the density. The source divides by the share of
    multiply-adds that is left, which depends on the mask; a plan is made before there is one, so
    it is the share of weights here. Schedules stretch with the epochs, as in the source.
    """

    cost = "1 training from scratch of at most ``at_most`` times the epochs, after that of the mask"

    at_most: float = Field(2.0, ge=1)
    """Multiple of the epochs that is not exceeded. The source takes 2 on ImageNet, and none on
    CIFAR: at density 0.1 that would be 10."""

    def longer(self, density: float) -> float:
        """1 / density, but no more than ``at_most``."""
        return min(1 / density, self.at_most)


class ScratchMethod(Method):
    """The mask is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Take the mask over."""
        masks = self.context.checkpoints[self.pruner.origin]
        masked.set({name: mask for name, mask in masks.items() if name in masked.weights})
