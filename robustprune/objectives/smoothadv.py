"""SmoothAdv: adversarial training of the smoothed classifier."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.objectives.l2 import ascend
from robustprune.objectives.ramp import Ramp
from robustprune.radii import L2Radius, Sigma, StepSize
from robustprune.train_mode import attack_mode
from robustprune.types import Progress


@register("smoothadv")
class SmoothAdv(Objective):
    """Mean over i of CE(f(x + δ + ηᵢ), y), m noises η. Source: Salman et al. 2019, Pseudocode 1.

    δ raises −log of the mean over i of softmax(f(x + δ + ηᵢ))_y (their Eq. S), the loss of the
    smoothed classifier itself, in an ℓ2 ball, with the network in eval mode and from δ = 0. The
    noises are drawn once a batch: attack and loss see the same ones. x + δ stays in [0, 1], the
    noisy images are not clipped. The accuracy shown is the smoothed classifier's on x + δ: the
    logits are the logarithms of the mean probabilities.

    All m noisy copies are one batch of the network, so time and memory grow with m.
    """

    calls_only = True

    eps: L2Radius = Field(0.5, ge=0)
    """Radius of the ℓ2 ball; [0, 1] pixel range. The source trains with 64, 127, 255 and
    512/255; the default is the smallest of these that covers the radius 110/255 of HYDRA's
    certificates."""
    sigma: Sigma = Field(0.25, ge=0)
    """Standard deviation of the noise; [0, 1] pixel range. Certify with the same one."""
    noises: int = Field(2, ge=1)
    """m: noisy copies of each image. The source compares 1, 2, 4 and 8."""
    steps: int = Field(4, ge=1)
    """Gradient steps of the attack, each a pass over m copies. The source compares 2 to 10."""
    step_size: StepSize | None = None
    """Length of a step; 2·eps/steps if absent, of the ramp's eps."""
    ramp: Ramp = Ramp()
    """Growth of eps. The source's warm-up is ``{epochs: 10}``."""

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """The noisy images x + δ + ηᵢ, ``(m, n, channels, height, width)``, detached."""
        shape = (self.noises, *images.shape)
        noise = self.sigma * torch.randn(shape, dtype=images.dtype, device=images.device)
        eps = self.eps * self.ramp.factor(progress)
        if eps == 0:
            return images + noise

        def loss(x: Tensor) -> Tensor:
            smoothed = _log_mean(_log_probabilities(model, x + noise))
            return F.nll_loss(smoothed, labels, reduction="sum")

        step_size = 2 * eps / self.steps if self.step_size is None else self.step_size
        with attack_mode(model, images.device.type):
            moved = ascend(loss, images, images, eps=eps, step_size=step_size, steps=self.steps)
        return moved + noise

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """Cross-entropy, a mean over images and noises."""
        assert attacked is not None
        each = _log_probabilities(model, attacked)
        total = F.nll_loss(each.flatten(0, 1), labels.repeat(self.noises))
        return Loss(total, _log_mean(each), {})


def _log_probabilities(model: nn.Module, noisy: Tensor) -> Tensor:
    """Log softmax(f(x + ηᵢ)), ``(m, n, classes)``, of ``(m, n, channels, height, width)``."""
    logits: Tensor = model(noisy.flatten(0, 1))
    precise = torch.promote_types(logits.dtype, torch.float32)  # autocast on CPU leaves it half
    return logits.log_softmax(dim=1, dtype=precise).view(*noisy.shape[:2], -1)


def _log_mean(each: Tensor) -> Tensor:
    """Logarithm of the mean over the noises: ``(m, n, classes)`` to ``(n, classes)``."""
    return each.logsumexp(dim=0) - math.log(len(each))
