"""Training on Gaussian noise: the plainest way to a network that smoothing can certify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.radii import Sigma
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("gaussian")
class Gaussian(Objective):
    """CE(f(x + σN), y), N standard normal. Source: Cohen et al. 2019, Sec. 3.3.

    Noisy images are not clipped: the certificate is of the network under the full noise. The
    accuracy shown is the one on them.
    """

    sigma: Sigma = Field(0.25, ge=0)
    """Standard deviation of the noise; [0, 1] pixel range. Certify with the same one."""

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """Cross-entropy on one noisy copy of each image."""
        import torch
        from torch.nn import functional as F

        logits = model(images + self.sigma * torch.randn_like(images))
        return Loss(F.cross_entropy(logits, labels), logits, {})
