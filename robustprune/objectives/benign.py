"""Training without an adversary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("benign")
class Benign(Objective):
    """Cross-entropy on the clean images."""

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """CE(f(x), y)."""
        from torch.nn import functional as F

        logits = model(images)
        return Loss(F.cross_entropy(logits, labels), logits, {})
