"""Training on interval bounds, alone or mixed with CROWN's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from robustprune.objectives import register
from robustprune.objectives.base import Loss
from robustprune.objectives.certified import CertifiedTraining, robust_cross_entropy
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class IntervalTraining(CertifiedTraining):
    """κ·CE(f(x), y) + (1 − κ)·CE of the worst logits, with κ moving as the ramp does."""

    def kappa_at(self, factor: float) -> float:
        """κ when the ramp has reached a factor in [0, 1]."""
        raise TypeError(f"{type(self).__name__} must define kappa_at(factor)")

    def robust(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, factor: float
    ) -> Tensor:
        """The certified part, a mean over the batch, when the ramp has reached ``factor``."""
        margins = self.bounds(model, images).margins(model, images, labels, eps=eps, method="ibp")
        return robust_cross_entropy(margins)

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The mixture; plain cross-entropy while the ramp's radius is 0."""
        import torch
        from torch.nn import functional as F

        factor = self.ramp.factor(progress)
        eps, kappa = self.eps * factor, self.kappa_at(factor)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (kappa > 0 or eps == 0)):
            logits = model(images)
            natural = F.cross_entropy(logits, labels)
        if eps == 0:
            return Loss(natural, logits, {"natural": natural.detach(), "robust": natural.detach()})
        robust = self.robust(model, images, labels, eps=eps, factor=factor)
        total = robust if kappa == 0 else kappa * natural + (1 - kappa) * robust
        return Loss(total, logits, {"natural": natural.detach(), "robust": robust.detach()})


@register("ibp")
class Ibp(IntervalTraining):
    """Training on interval bounds. Source: Gowal et al. 2018 (arXiv 1810.12715).

    κ goes from ``kappa_start`` to ``kappa`` as eps goes from 0 to all of itself. In stages that
    have no ramp both are where they end.
    """

    kappa_start: float = Field(1.0, ge=0, le=1)
    """Weight of the clean cross-entropy where the ramp begins."""
    kappa: float = Field(0.5, ge=0, le=1)
    """Weight of the clean cross-entropy where the ramp ends. The source ends at 0.5."""

    def kappa_at(self, factor: float) -> float:
        """From one to the other, in a line over the ramp's factor."""
        return self.kappa_start + factor * (self.kappa - self.kappa_start)


@register("crown_ibp")
class CrownIbp(IntervalTraining):
    """Training on CROWN-IBP bounds mixed into IBP's. Source: Zhang et al. 2020 (arXiv 1906.06316).

    The margins are β·CROWN-IBP + (1 − β)·IBP with β = 1 − ε_t/ε, so CROWN-IBP steadies the ramp
    and after it training is on interval bounds alone: HYDRA's prune and finetune stages are that.
    Both are sound, and so is their mixture.
    """

    kappa: float = Field(0.0, ge=0, le=1)
    """Weight of the clean cross-entropy. HYDRA, as the source's best results, uses 0."""
    fusion: bool = False
    """Bound the loss in one backward pass instead of each class's margin, and mix losses instead
    of margins. Faster, the more so the more classes there are, and looser."""

    def kappa_at(self, factor: float) -> float:
        """The same all the time."""
        return self.kappa

    def robust(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, factor: float
    ) -> Tensor:
        """The certified part, from both bounds while the ramp lasts."""
        from robustprune.adapters.fusion import cross_entropy_bound

        beta = 1 - factor
        if beta == 0:
            return super().robust(model, images, labels, eps=eps, factor=factor)
        bounds = self.bounds(model, images)
        if self.fusion:
            interval = bounds.margins(model, images, labels, eps=eps, method="ibp")
            linear = cross_entropy_bound(bounds, model, images, labels, eps=eps).mean()
            return beta * linear + (1 - beta) * robust_cross_entropy(interval)
        interval, linear = bounds.interval_and_linear(model, images, labels, eps=eps)
        return robust_cross_entropy(beta * linear + (1 - beta) * interval)
