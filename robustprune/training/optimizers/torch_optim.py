"""torch.optim's optimizers that the field uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from robustprune.training.optimizers import register
from robustprune.training.optimizers.base import OptimizerPart

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class _TorchOptimizer(OptimizerPart):
    weight_decay: float = Field(0.0, ge=0)
    """Factor of the decay (coupled ℓ2 but for adamw), on every trainable tensor alike."""

    def build(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimizer of torch.optim; this part's fields are its arguments."""
        import torch

        constructor = getattr(torch.optim, type(self).__name__)
        optimizer: Optimizer = constructor(list(parameters), **self.arguments())
        return optimizer

    def arguments(self) -> dict[str, Any]:
        """What torch's constructor gets."""
        return dict(self)


@register("sgd")
class SGD(_TorchOptimizer):
    """Stochastic gradient descent with momentum."""

    lr: float = Field(0.1, gt=0)
    """Learning rate at the schedule's factor 1."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the former step that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    def arguments(self) -> dict[str, Any]:
        """What torch's constructor gets: it refuses nesterov without momentum."""
        return {**dict(self), "nesterov": self.nesterov and self.momentum > 0}


class _Adam(_TorchOptimizer):
    lr: float = Field(1e-3, gt=0)
    """Learning rate at the schedule's factor 1."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running mean and of the running square, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""

    @field_validator("betas")
    @classmethod
    def _decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1); got {list(betas)}.")
        return betas


@register("adam")
class Adam(_Adam):
    """Adam, with coupled weight decay."""


@register("adamw")
class AdamW(_Adam):
    """Adam with decoupled weight decay. Source: Loshchilov, Hutter 2019."""

    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled decay, on every trainable tensor alike."""


@register("rmsprop")
class RMSprop(_TorchOptimizer):
    """RMSprop."""

    lr: float = Field(1e-2, gt=0)
    """Learning rate at the schedule's factor 1."""
    alpha: float = Field(0.99, ge=0, lt=1)
    """Decay of the running square."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Share of the former step that is kept."""
