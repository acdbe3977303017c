"""HYDRA: learn what to keep by minimising the robust objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.masking.scores import ScoreInit
from robustprune.pruners import register
from robustprune.pruners.base import LearnedPruner

if TYPE_CHECKING:
    from torch import nn

    from robustprune.masking import MaskedModel


@register("hydra")
class Hydra(LearnedPruner):
    """Scores learned by SGD on the robust objective, weights frozen. Source: HYDRA, Sec. 3."""

    scores: ScoreInit = "scaled_magnitude"
    """How scores start; the paper's is scaled_magnitude."""

    def attach(self, model: nn.Module, density: float) -> MaskedModel:
        """Mask with trainable scores."""
        from robustprune import masking

        return masking.attach(
            model, density=density, allocation=self.allocation, scores=self.scores
        )
