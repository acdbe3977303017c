"""Accuracy on the images as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.evaluators import register
from robustprune.evaluators.base import Evaluator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage


@register("clean")
class Clean(Evaluator):
    """Top-1 accuracy without an adversary, and ``clean_top5`` with more than ten classes."""

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether the label has the largest logit, and whether it is among the five largest."""
        import torch

        with torch.no_grad():
            logits = model(images)
        finite = logits.isfinite().all(1)
        results = {self.metric: (logits.argmax(1) == labels) & finite}
        if logits.shape[1] > 10:
            five = logits.topk(5, dim=1).indices == labels.unsqueeze(1)
            results[f"{self.metric}_top5"] = five.any(1) & finite
        return results
