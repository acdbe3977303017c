"""Least-weight-magnitude pruning, the paper's LWM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.pruners import register
from robustprune.pruners.base import OneShotPruner

if TYPE_CHECKING:
    from torch import nn

    from robustprune.masking import MaskedModel


@register("magnitude")
class Magnitude(OneShotPruner):
    """Keep the weights of largest magnitude. Source: Han et al. 2015; the paper's LWM."""

    def attach(self, model: nn.Module, density: float) -> MaskedModel:
        """Mask by |weight|."""
        from robustprune import masking

        return masking.attach(
            model, density=density, allocation=self.allocation, scores="magnitude"
        )
