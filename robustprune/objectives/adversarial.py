"""Cross-entropy on images that an attack has perturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.radii import Radius, StepSize, default_step
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdversarialTraining(Objective):
    """CE(f(x_adv), y) with x_adv from a torchattacks attack in the ℓ∞ ball.

    The clean images are not classified (that would cost a forward more), so the accuracy shown
    is the one under the training attack.
    """

    eps: Radius = Field(8 / 255, ge=0)
    """Radius of the ℓ∞ ball, in units of the [0, 1] pixel range."""

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """The torchattacks attack's name and arguments."""
        raise TypeError(f"{type(self).__name__} must define arguments()")

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor:
        """x_adv: images of the same shape, in the ball and in [0, 1], detached."""
        from robustprune.adapters import torchattacks

        name, arguments = self.arguments()
        return torchattacks.perturb(name, model, images, labels, **arguments)

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """CE(f(x_adv), y)."""
        from torch.nn import functional as F

        logits = model(attacked)
        return Loss(F.cross_entropy(logits, labels), logits, {})


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


@register("fgsm")
class Fgsm(AdversarialTraining):
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
