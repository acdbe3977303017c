"""Cross-entropy on one version of each image: clean, noisy or attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.adapters import SETUP, torchattacks
from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.radii import Radius, Sigma, StepSize, default_step
from robustprune.types import Progress


@register("benign")
class Benign(Objective):
    """Cross-entropy on the clean images: training without an adversary."""

    calls_only = True

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """CE(f(x), y), of the attacked images where there are any."""
        logits = model(images if attacked is None else attacked)
        return Loss(F.cross_entropy(logits, labels), logits, {})


@register("gaussian")
class Gaussian(Benign):
    """CE(f(x + σN), y), N standard normal. Source: Cohen et al. 2019, Sec. 3.3.

    Noisy images are not clipped: the certificate is of the network under the full noise. The
    accuracy shown is the one on them.
    """

    sigma: Sigma = Field(0.25, ge=0)
    """Standard deviation of the noise; [0, 1] pixel range. Certify with the same one."""

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """One noisy copy of each image."""
        return images + self.sigma * torch.randn_like(images)


class AdversarialTraining(Benign):
    """CE(f(x_adv), y) with x_adv from a torchattacks attack in the ℓ∞ ball.

    The clean images are not classified (that would cost a forward more), so the accuracy shown
    is the one under the training attack.
    """

    libraries = ("torchattacks",)
    install = SETUP

    eps: Radius = Field(8 / 255, ge=0)
    """Radius of the ℓ∞ ball, in units of the [0, 1] pixel range."""

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """The torchattacks attack's name and arguments."""
        raise TypeError(f"{type(self).__name__} must define arguments()")

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """x_adv: images of the same shape, in the ball and in [0, 1], detached."""
        name, arguments = self.arguments()
        return torchattacks.perturb(name, model, images, labels, **arguments)


@register("pgd")
class Pgd(AdversarialTraining):
    """Cross-entropy under projected gradient descent. Source: Madry et al. 2018, Eq. 2.1."""

    steps: int = Field(10, ge=1)
    """Gradient steps of the attack."""
    step_size: StepSize | None = None
    """Length of a step; a quarter of eps if absent, 1.25·eps/steps in fewer than five steps."""
    random_start: bool = True
    """Start at a uniformly random point of the ball."""

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """Torchattacks' PGD."""
        return "PGD", {
            "eps": self.eps,
            "alpha": self.step_size or default_step(self.eps, self.steps),
            "steps": self.steps,
            "random_start": self.random_start,
        }


class SingleStep(AdversarialTraining):
    """Training against one gradient step, which a network may learn to withstand alone.

    Epochs are therefore compared under PGD-10, whose accuracy then collapses.
    """

    def validation_loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """CE(f(x_adv), y) under PGD-10."""
        return Pgd(eps=self.eps)(model, images, labels, progress)

    def alarm(self, history: Sequence[Mapping[str, float]]) -> str:
        """Tell of catastrophic overfitting: less than half of the best accuracy under PGD-10."""
        accuracies = [epoch["val_accuracy"] for epoch in history if "val_accuracy" in epoch]
        if len(accuracies) < 2 or accuracies[-1] >= max(accuracies[:-1]) / 2:
            return ""
        return (
            f"accuracy under PGD-10 on the validation split fell from {max(accuracies[:-1]):.1%} "
            f"to {accuracies[-1]:.1%}: the network has learned to withstand "
            f"'{self.registered_name}' alone (catastrophic overfitting). Use a lower learning "
            "rate, nfgsm with a larger 'noise', or pgd; select: best keeps an epoch before it."
        )


@register("fgsm")
class Fgsm(SingleStep):
    """Cross-entropy under one gradient step. Source: Wong, Rice, Kolter 2020, Alg. 3."""

    step_size: StepSize | None = None
    """Length of the step; 1.25 eps if absent. Without a random start it is eps."""
    random_start: bool = True
    """Start at a uniformly random point of the ball. Without it this is plain FGSM
    (Goodfellow et al. 2015), which overfits to its own step."""

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """Torchattacks' FFGSM, or its FGSM without a random start."""
        if not self.random_start:
            return "FGSM", {"eps": self.eps}
        step_size = self.step_size or default_step(self.eps, 1)
        return "FFGSM", {"eps": self.eps, "alpha": step_size}


@register("nfgsm")
class Nfgsm(SingleStep):
    """CE(f(x_adv), y), x_adv one step from a noisy image, not clipped to the ball: N-FGSM.

    x_adv = clip(z + eps·sign ∇CE(f(z), y)) with z = clip(x + U(−k·eps, k·eps)), both clipped to
    [0, 1] alone. Source: de Jorge et al. 2022, *Make Some Noise*, Alg. 1. Unlike there, the network
    is in eval mode while it is attacked.
    """

    noise: float = Field(2.0, ge=0)
    """k: half the noise's range, in radii."""

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """x_adv: in [0, 1], detached, up to (1 + k)·eps away."""
        reach = self.noise * self.eps
        noisy = (images + torch.empty_like(images).uniform_(-reach, reach)).clamp(0, 1)
        return torchattacks.perturb("FGSM", model, noisy, labels, eps=self.eps)


@register("free")
class Free(SingleStep):
    """CE(f(x + δ), y), m steps a batch, δ kept between batches. Shafahi et al. 2019, Alg. 1.

    The noise δ is updated by the backward pass of the weights. A recipe divides its epochs by m to
    spend the same time as plain training. The noise belongs to the stage: it is saved with it and
    is not reset at an epoch's start.
    """

    eps: Radius = Field(4 / 255, ge=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""
    step_size: Radius | None = Field(None, gt=0)
    """Length of a step of the noise; eps if absent."""
    replays: int = Field(4, ge=1)
    """m: optimizer steps on each batch."""

    _noise: Any = PrivateAttr(None)
    _perturbed: Any = PrivateAttr(None)

    @property
    def repeats(self) -> int:
        """Optimizer steps to take on each batch."""
        return self.replays

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """clip(x + δ), a leaf: δ takes its gradient from the weights' backward pass."""
        if self._noise is None:
            self._noise = torch.zeros_like(images)
        self._noise = self._noise.to(images.device)
        missing = len(images) - len(self._noise)
        if missing > 0:
            self._noise = torch.cat([self._noise, torch.zeros_like(images[:missing])])
        # the gradient is taken at the clipped image: through clamp it would vanish at 0 and 1
        self._perturbed = (images + self._noise[: len(images)]).clamp(0, 1).requires_grad_()
        return self._perturbed  # type: ignore[no-any-return]

    def after_backward(self) -> None:
        """δ ← clip(δ + step·sign(∇δ), ±eps)."""
        gradient = self._perturbed.grad
        step_size = self.eps if self.step_size is None else self.step_size
        noise = self._noise[: len(gradient)]
        noise.add_(step_size * gradient.sign()).clamp_(-self.eps, self.eps)

    def state_dict(self) -> dict[str, Any]:
        """The noise, ``(largest batch so far, channels, height, width)``."""
        return {} if self._noise is None else {"noise": self._noise.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the noise over."""
        self._noise = state.get("noise")
