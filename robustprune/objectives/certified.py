"""Certified training: cross-entropy of the worst logits that bounds admit."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.adapters import SETUP
from robustprune.adapters.bounds import Bounds
from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.objectives.ramp import Ramp
from robustprune.radii import Radius
from robustprune.types import Progress


class CertifiedTraining(Objective):
    """The base of objectives that minimise a certified upper bound on the cross-entropy.

    The clean logits come from an ordinary forward pass in the mode that the network is in, which
    is where BatchNorm learns its statistics; the bounds that follow are about the network in eval
    mode with the statistics of that moment. The accuracy shown is the clean one.
    """

    libraries = ("auto_LiRPA",)
    install = SETUP

    eps: Radius = Field(2 / 255, ge=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""
    ramp: Ramp = Ramp()
    """Growth of eps."""

    _bounds: Any = PrivateAttr(None)
    _network: Any = PrivateAttr(None)

    def bounds(self, model: nn.Module, images: Tensor) -> Bounds:
        """The bounds of ``model``, built at its first batch and kept."""
        known = self._network is not None and self._network() is model
        if not (known and self._bounds.fits(images)):
            self._bounds, self._network = Bounds(model, images), weakref.ref(model)
        return self._bounds  # type: ignore[no-any-return]


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """Cross-entropy of the logits 0 for the true class and −margin for every other, batch mean.

    No image in the ball has a larger one: cross-entropy falls with each margin, and these bound
    all of them from below. Source: Wong, Kolter 2018, Thm. 2.

    Args:
        margins: lower bounds on ``f(x')_y - f(x')_j``, ``(n, classes - 1)``.
    """
    truth = margins.new_zeros(len(margins), 1)
    target = torch.zeros(len(margins), dtype=torch.int64, device=margins.device)
    return F.cross_entropy(torch.cat([truth, -margins], dim=1), target)


class IntervalTraining(CertifiedTraining):
    """κ·CE(f(x), y) + (1 − κ)·CE of the worst logits, with κ moving as the ramp does."""

    kappa: float = Field(ge=0, le=1)
    """Weight of the clean cross-entropy where the ramp ends."""

    def kappa_at(self, factor: float) -> float:
        """κ when the ramp has reached a factor in [0, 1]."""
        return self.kappa

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

    def robust(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, factor: float
    ) -> Tensor:
        """The certified part, from both bounds while the ramp lasts."""
        beta = 1 - factor
        if beta == 0:
            return super().robust(model, images, labels, eps=eps, factor=factor)
        bounds = self.bounds(model, images)
        if self.fusion:
            interval = bounds.margins(model, images, labels, eps=eps, method="ibp")
            linear = bounds.cross_entropy(model, images, labels, eps=eps).mean()
            return beta * linear + (1 - beta) * robust_cross_entropy(interval)
        interval, linear = bounds.interval_and_linear(model, images, labels, eps=eps)
        return robust_cross_entropy(beta * linear + (1 - beta) * interval)


START, GROWTH, EVERY = 0.1, 2.5, 5
"""MixTrain's weight until the ramp ends; its growth from then on, once in so many epochs."""


@register("mixtrain")
class MixTrain(CertifiedTraining):
    """CE(f(x), y) + w·CE of the worst logits of k samples. Source: Wang et al. 2018.

    The source's *stochastic robust approximation* (arXiv 1811.02625): the second term, whose
    symbolic bound is dear, is taken on ``samples`` random images of a batch with a probability.
    The bound is CROWN's, the same relaxation as the source's and the fastest way to it here.
    The curve ``robust`` counts a step without the term as 0.
    """

    samples: int = Field(5, ge=1)
    """k: images of a batch that are bounded, in each process that shares it. HYDRA takes 5 for
    CNN-small, 1 for CNN-large."""
    probability: float = Field(0.8, gt=0, le=1)
    """Probability of taking the robust term in a step."""
    most: float = Field(50.0, gt=0)
    """The weight w at most: from 0.1 it is multiplied by 2.5 every 5 epochs, counted from the
    end of the ramp, or from the start of a stage without one."""

    def weight(self, progress: Progress) -> float:
        """w, from the epochs finished."""
        past = max(progress.epoch - self.ramp.end(progress), 0)
        return min(START * float(GROWTH ** (past // EVERY)), self.most)

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The clean loss, and the robust one where it is this step's turn."""
        logits = model(images)
        natural = F.cross_entropy(logits, labels)
        total, robust = natural, torch.zeros_like(natural)
        eps = self.eps * self.ramp.factor(progress)
        turn = float(torch.rand(())) < self.probability
        if turn and eps > 0:
            chosen = torch.randperm(len(images))[: self.samples].to(images.device)
            some, their = images[chosen], labels[chosen]
            margins = self.bounds(model, some).margins(model, some, their, eps=eps, method="crown")
            robust = robust_cross_entropy(margins)
            total = natural + self.weight(progress) * robust
        return Loss(total, logits, {"natural": natural.detach(), "robust": robust.detach()})
