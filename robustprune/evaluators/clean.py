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

        from robustprune.adapters.torchattacks import logits

        with torch.no_grad():
            found = logits(model, images)
        finite = found.isfinite().all(1)
        results = {self.metric: (found.argmax(1) == labels) & finite}
        if found.shape[1] > 10:
            five = found.topk(5, dim=1).indices == labels.unsqueeze(1)
            results[f"{self.metric}_top5"] = five.any(1) & finite
        return results
