"""Stability training: a clean loss, and how far noise moves the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.objectives.consistency import consistency
from robustprune.radii import Sigma
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("stability")
class Stability(Objective):
    """CE(f(x), y) + β·KL(f(x) ‖ f(x + σN)). Source: Zheng et al. 2016; Carmon et al. 2019, Sec. 4.

    HYDRA's objective for randomised smoothing. The noise is not clipped, and the gradient goes
    through both predictions.
    """

    sigma: Sigma = Field(0.25, ge=0)
    """Standard deviation of the noise; [0, 1] pixel range. Certify with the same one."""
    beta: float = Field(6.0, ge=0)
    """Weight of the KL term."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """The clean and the robust part, each a mean over the batch."""
        import torch

        noisy = images + self.sigma * torch.randn_like(images)
        return consistency(model(images), model(noisy), labels, self.beta)
