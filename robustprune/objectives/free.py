"""Free adversarial training: the noise is updated by the backward pass of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.radii import Radius
from robustprune.rows import rows_of
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("free")
class Free(Objective):
    """CE(f(x + δ), y), m steps a batch, δ kept between batches. Shafahi et al. 2019, Alg. 1.

    A recipe divides its epochs by m to spend the same time as plain training. The noise belongs
    to the phase: it is saved with it and is not reset at an epoch's start.
    """

    eps: Radius = Field(4 / 255, ge=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""
    step_size: Radius | None = Field(None, gt=0)
    """Length of a step of the noise; eps if absent."""
    replays: int = Field(4, ge=1)
    """m: optimizer steps on each batch."""

    _noise: Any = PrivateAttr(None)  # of the places in the batch that are in this process
    _resumed: Any = PrivateAttr(None)  # of all places, until it is known which of them are here
    _perturbed: Any = PrivateAttr(None)

    @property
    def repeats(self) -> int:
        """Optimizer steps to take on each batch."""
        return self.replays

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """CE(f(clip(x + δ)), y); δ takes its gradient from the same backward pass."""
        from torch.nn import functional as F

        # the gradient is taken at the clipped image: through clamp it would vanish at 0 and 1
        self._perturbed = (images + self._noise_for(images)).clamp(0, 1).requires_grad_()
        logits = model(self._perturbed)
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
        if self._noise is None:
            return {} if self._resumed is None else {"noise": self._resumed, "whole": True}
        return {"noise": self._noise.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the noise over."""
        self._noise, self._resumed = None, state.get("noise")

    def merged(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The noise of each place in the batch, which processes have in turn."""
        if not states[0] or states[0].get("whole"):  # no batch was seen since it was put together
            return {key: states[0][key] for key in states[0] if key == "noise"}
        parts = [state["noise"] for state in states]
        whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
        for first, part in enumerate(parts):
            whole[first :: len(parts)] = part
        return {"noise": whole}

    def _noise_for(self, images: Tensor) -> Tensor:
        """The stored noise of this batch's places, grown by zeros if the batch is larger."""
        import torch

        if self._noise is None:
            rows = rows_of(images)
            known = torch.zeros_like(images) if self._resumed is None else self._resumed
            here = slice(None) if self._resumed is None else slice(rows.first, None, rows.every)
            self._noise, self._resumed = known[here].to(images.device, copy=True), None
        missing = len(images) - len(self._noise)
        if missing > 0:
            self._noise = torch.cat([self._noise, torch.zeros_like(images[:missing])])
        noise: Tensor = self._noise[: len(images)]
        return noise
