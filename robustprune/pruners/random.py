"""Random pruning: what a mask is worth that knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.pruners import register
from robustprune.pruners.base import OneShotPruner

if TYPE_CHECKING:
    from torch import nn

    from robustprune.masking import MaskedModel


@register("random")
class Random(OneShotPruner):
    """Keep weights at random: the baseline that every method must beat."""

    def attach(self, model: nn.Module, density: float) -> MaskedModel:
        """Mask by scores uniform in [0, 1), from the global generator."""
        from robustprune import masking

        return masking.attach(model, density=density, allocation=self.allocation, scores="random")
