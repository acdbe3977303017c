"""One layer's mask, as a parametrization of its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ScoreMask(nn.Module):
    """Shows a layer ``where(mask, weight, 0)`` and lets gradients through to the scores.

    The mask is stored, never recomputed in `forward`: `MaskedModel.select` renews it from the
    scores once a step while they are learned, and nobody does once they are frozen.

    Attributes:
        scores: one real per weight, the weight's shape; the mask keeps the largest |score|.
        mask: boolean, the weight's shape.
        initial: the mask that the initial scores gave; turnover is measured against it.
    """

    mask: Tensor
    initial: Tensor

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.register_buffer("mask", torch.ones_like(scores, dtype=torch.bool))
        self.register_buffer("initial", torch.ones_like(scores, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, same shape. Pruned entries are +0.0."""
        masked: Tensor = _MaskedWeight.apply(weight, self.scores, self.mask)
        return masked

    @property
    def kept(self) -> int:
        """Number of weights the mask keeps."""
        return int(self.mask.sum())

    @property
    def replaced(self) -> int:
        """Number of kept weights that the initial scores did not keep."""
        return int((self.mask & ~self.initial).sum())


class _MaskedWeight(torch.autograd.Function):
    """``m ⊙ w`` with ``m = topk(|s|)``, straight-through: ``dm/d|s| = 1``, so ``ds = g·w·sign(s)``.

    Source: Sec. 3.2 of HYDRA; Ramanujan et al. 2020 for the straight-through gradient.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        return torch.where(mask, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        weight, scores, mask = ctx.saved_tensors
        needs_weight, needs_scores, _ = ctx.needs_input_grad
        grad_weight = torch.where(mask, grad, 0.0) if needs_weight else None
        grad_scores = (grad * weight).mul_(scores.sign()) if needs_scores else None
        return grad_weight, grad_scores, None
