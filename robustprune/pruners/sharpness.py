"""Gradients at the worst small move of what is trained: S2AP on scores, AWP on weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from robustprune.masking import MaskedModel
    from robustprune.objectives import Loss
    from robustprune.pruners.base import Closure, Method, Stage


class Sharpened:
    """A closure whose gradients are those at ``p + radius·‖p‖·g/‖g‖``, g being those at p.

    Scores move as a whole, weights where they are kept; biases and norm layers stay, as in AWP's
    reference. Masks are selected anew from moved scores. Everything is put back before it returns,
    whatever happens. Sources: Piras et al. 2025 (arXiv 2510.18381), Wu, Xia, Wang 2020 (arXiv
    2004.05884).

    Args:
        closure: the loop's.
        method: selects masks.
        stage: under way.
        masked: the network.
        radius: as above.
    """

    def __init__(
        self, closure: Closure, *, method: Method, stage: Stage, masked: MaskedModel, radius: float
    ) -> None:
        self._closure, self._method, self._stage = closure, method, stage
        self._masked, self._radius = masked, radius

    def __call__(self, *, again: bool = False) -> Loss:
        """The loss at p, and the gradients at the worst move.

        Args:
            again: as for the closure itself.
        """
        loss = self._closure(again=again)
        moved = {p: p.detach().clone() for p in self._masked.model.parameters() if _moves(p)}
        masks, initial = self._masked.masks, self._masked.initial
        try:
            self._move(list(moved))
            self._method.select(self._stage, self._masked)
            self._closure(again=True)
        finally:
            with torch.no_grad():
                for parameter, value in moved.items():
                    parameter.copy_(value)
            self._masked.set(masks)
            self._masked.initial = initial  # no move is the first mask of a network
        return loss

    @torch.no_grad()
    def _move(self, parameters: list[nn.Parameter]) -> None:
        kept = {id(self._masked.weights[name]): mask for name, mask in self._masked.masks.items()}
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            mask = kept.get(id(parameter))
            if mask is not None:
                gradient = torch.where(mask, gradient, 0.0)
            length = gradient.norm()
            size = _norm(parameter, mask)
            parameter.add_(gradient * (self._radius * size / length.clamp_min(1e-30)))


def _moves(parameter: nn.Parameter) -> bool:
    """Trained, reached by the loss, and no bias or norm layer's."""
    return parameter.requires_grad and parameter.grad is not None and parameter.ndim > 1


def _norm(parameter: Tensor, mask: Tensor | None) -> Tensor:
    norm: Tensor = (parameter if mask is None else torch.where(mask, parameter, 0.0)).norm()
    return norm
