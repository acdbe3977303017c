"""What every pruner is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from robustprune.masking.allocations import Allocation
from robustprune.parts import Part, PartOf

if TYPE_CHECKING:
    from torch import nn

    from robustprune.masking import MaskedModel


class Pruner(Part):
    """Finds which weights of a dense network to keep.

    `attach` masks the network and decides how its scores start. Extend `LearnedPruner` if the prune
    phase is to train them, or `OneShotPruner` if the network goes to finetuning as it is.
    """

    label: str | None = Field(None, pattern=r"^[\w][\w.-]*$")
    """Names the networks in results, to tell variants of a method apart."""
    allocation: Annotated[Allocation, PartOf("allocations", {"name": "uniform"})]
    """How the network's density is shared out among its layers."""

    @property
    def variant(self) -> str:
        """The label, or the pruner's name."""
        return self.label or self.registered_name

    def network(self, density: float) -> str:
        """The pruned network's name, e.g. ``hydra-0.01``."""
        return f"{self.variant}-{density:g}"

    def attach(self, model: nn.Module, density: float) -> MaskedModel:
        """Mask ``model``, a trained dense network, in place.

        Args:
            model: maps images in [0, 1] to logits.
            density: fraction of the prunable weights to keep, in (0, 1].
        """
        raise TypeError(f"{type(self).__name__} must define attach(model, density)")


class LearnedPruner(Pruner):
    """Scores are trained by the prune phase, with the recipe's objective."""

    train_norms: bool = True
    """Whether norm layers train in the prune phase, as in HYDRA's reference; else they, and their
    running statistics, stay as they are."""


class OneShotPruner(Pruner):
    """Nothing is learned about the mask; the prune phase is skipped."""

    equal_compute: bool = False
    """Finetune for prune + finetune epochs: as long as a method that learns trains in all."""
