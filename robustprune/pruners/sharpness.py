"""Gradients at the worst small move of what is trained: S2AP on scores, AWP on weights."""

from __future__ import annotations

import torch
from torch import nn

from robustprune.masking import MaskedModel
from robustprune.objectives import Loss
from robustprune.pruners.base import Closure, Method, Stage


def sharpened(
    closure: Closure, *, method: Method, stage: Stage, masked: MaskedModel, radius: float
) -> Closure:
    """A closure whose gradients are those at ``p + radius·‖p‖·g/‖g‖``, g being those at p.

    Its loss is the one at p. Scores move as a whole, weights where they are kept; biases and norm
    layers stay, as in AWP's reference. Masks are selected anew from moved scores. Everything is put
    back before it returns, whatever happens. Sources: Piras et al. 2025 (arXiv 2510.18381), Wu,
    Xia, Wang 2020 (arXiv 2004.05884).

    Args:
        closure: the loop's.
        method: selects masks.
        stage: under way.
        masked: the network.
        radius: see `Sharpness`.
    """

    def at_worst_move(*, again: bool = False) -> Loss:
        loss = closure(again=again)
        # trained, reached by the loss, and no bias or norm layer's
        trained = (p for p in masked.model.parameters() if p.requires_grad and p.grad is not None)
        before = {p: p.detach().clone() for p in trained if p.ndim > 1}
        masks, initial = masked.masks, masked.initial
        kept = {masked.weights[name]: mask for name, mask in masks.items()}
        try:
            for parameter in before:
                _move(parameter, kept.get(parameter), radius)
            method.select(stage, masked)
            closure(again=True)
        finally:
            with torch.no_grad():
                for parameter, value in before.items():
                    parameter.copy_(value)
            masked.set(masks)
            masked.initial = initial  # no move is the first mask of a network
        return loss

    return at_worst_move


@torch.no_grad()
def _move(parameter: nn.Parameter, mask: torch.Tensor | None, radius: float) -> None:
    gradient = parameter.grad
    assert gradient is not None
    size = parameter.norm()
    if mask is not None:
        gradient, size = torch.where(mask, gradient, 0.0), torch.where(mask, parameter, 0.0).norm()
    parameter.add_(gradient * (radius * size / gradient.norm().clamp_min(1e-30)))
