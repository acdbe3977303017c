"""A clean loss, and how far a prediction moves: by an adversary (TRADES), by noise (stability)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.adapters import SETUP, torchattacks
from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.objectives.l2 import ascend
from robustprune.radii import Radius, Sigma, StepSize, default_step
from robustprune.train_mode import attack_mode
from robustprune.types import Progress


@register("trades")
class Trades(Objective):
    """CE(f(x), y) + β·KL(f(x) ‖ f(x_adv)). Source: Zhang et al. 2019, Eq. 5 and Alg. 1.

    The attack maximises the KL term with the network in eval mode, from x + 0.001·N(0, 1).
    """

    libraries = ("torchattacks",)
    install = SETUP
    calls_only = True

    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball that the adversary moves in."""
    eps: Radius = Field(8 / 255, ge=0)
    """Radius of the ball; [0, 1] pixel range."""
    steps: int = Field(10, ge=1)
    """Gradient steps of the attack."""
    step_size: StepSize | None = None
    """Length of a step; a quarter of eps if absent, 1.25·eps/steps in fewer than five steps."""
    beta: float = Field(6.0, ge=0)
    """Weight of the KL term."""

    def requires(self) -> tuple[str, ...]:
        """The library, for the ball in which it has the attack."""
        return self.libraries if self.norm == "linf" else ()

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """x_adv: images of the same shape, in the ball and in [0, 1], detached."""
        step_size = self.step_size or default_step(self.eps, self.steps)
        if self.norm == "linf":
            return torchattacks.perturb(
                "TPGD", model, images, eps=self.eps, alpha=step_size, steps=self.steps
            )

        def kl(x: Tensor) -> Tensor:
            prediction = F.log_softmax(model(x), dim=1)
            return F.kl_div(prediction, target, reduction="sum", log_target=True)

        # torchattacks has this attack for ℓ∞ only
        with attack_mode(model, images.device.type):
            with torch.no_grad():
                target = F.log_softmax(model(images), dim=1)
            start = (images + 0.001 * torch.randn_like(images)).clamp(0, 1)
            return ascend(kl, start, images, eps=self.eps, step_size=step_size, steps=self.steps)

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The clean and the robust part, each a mean over the batch."""
        return consistency(model(images), model(attacked), labels, self.beta)


@register("stability")
class Stability(Objective):
    """CE(f(x), y) + β·KL(f(x) ‖ f(x + σN)). Source: Zheng et al. 2016; Carmon et al. 2019, Sec. 4.

    HYDRA's objective for randomised smoothing. The noise is not clipped, and the gradient goes
    through both predictions.
    """

    calls_only = True

    sigma: Sigma = Field(0.25, ge=0)
    """Standard deviation of the noise; [0, 1] pixel range. Certify with the same one."""
    beta: float = Field(6.0, ge=0)
    """Weight of the KL term."""

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The clean and the robust part, each a mean over the batch."""
        noisy = images + self.sigma * torch.randn_like(images)
        return consistency(model(images), model(noisy), labels, self.beta)


def consistency(logits: Tensor, moved: Tensor, labels: Tensor, beta: float) -> Loss:
    """CE(p, y) + β·KL(p ‖ q), each a mean over the batch, differentiated through p and q.

    Args:
        logits: of p, on the clean images: ``(n, classes)``; they are the loss's logits.
        moved: of q, on the perturbed images: same shape.
        labels: ``(n,)``, int64.
        beta: weight of the divergence.

    Returns:
        The loss with the parts ``natural`` and ``robust``.
    """
    natural = F.cross_entropy(logits, labels)
    robust = F.kl_div(
        F.log_softmax(moved, dim=1),
        F.log_softmax(logits, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    parts = {"natural": natural.detach(), "robust": robust.detach()}
    return Loss(natural + beta * robust, logits, parts)
