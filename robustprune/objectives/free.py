"""Free adversarial training: the noise is updated by the backward pass of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.radii import Radius
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("free")
class Free(Objective):
    """CE(f(x + δ), y), m steps a batch, δ kept between batches. Shafahi et al. 2019, Alg. 1.

    A recipe divides its epochs by m to spend the same time as plain training. The noise belongs
    to the stage: it is saved with it and is not reset at an epoch's start.
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
        # the gradient is taken at the clipped image: through clamp it would vanish at 0 and 1
        self._perturbed = (images + self._noise_for(images)).clamp(0, 1).requires_grad_()
        return self._perturbed  # type: ignore[no-any-return]

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """CE(f(clip(x + δ)), y)."""
        from torch.nn import functional as F

        logits = model(attacked)
        return Loss(F.cross_entropy(logits, labels), logits, {})

    def validation_loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """CE(f(x_adv), y) under PGD-10: the noise belongs to training images."""
        from robustprune.objectives.adversarial import Pgd

        return Pgd(eps=self.eps)(model, images, labels, progress)

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

    def _noise_for(self, images: Tensor) -> Tensor:
        """The stored noise of this batch's places, grown by zeros if the batch is larger."""
        import torch

        if self._noise is None:
            self._noise = torch.zeros_like(images)
        self._noise = self._noise.to(images.device)
        missing = len(images) - len(self._noise)
        if missing > 0:
            self._noise = torch.cat([self._noise, torch.zeros_like(images[:missing])])
        noise: Tensor = self._noise[: len(images)]
        return noise
