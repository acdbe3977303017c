"""Optimizers, by torch's own names and arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn
from torch.optim import Optimizer

from robustprune.components import Part
from robustprune.errors import ContractError
from robustprune.registry import Registry

__all__ = ["OptimizerPart", "create", "get", "names", "register"]


class OptimizerPart(Part):
    """Makes a torch optimizer over a stage's trainable tensors."""

    lr: float = Field(gt=0)
    """Learning rate at the schedule's factor 1."""

    def build(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """A new optimizer with no state.

        Args:
            parameters: tensors, or groups of them as torch.optim takes them.
        """
        raise TypeError(f"{type(self).__name__} must define build(parameters)")

    def built(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """The outcome of `build`, if it is an optimizer.

        Raises:
            ContractError: it is something else.
        """
        optimizer = self.build(parameters)
        if hasattr(optimizer, "param_groups"):
            return optimizer
        raise ContractError(
            self,
            f"optimizer '{self.registered_name}' must build a torch.optim.Optimizer; "
            f"got {type(optimizer).__name__}.",
        )


registry: Registry[OptimizerPart] = Registry("optimizers", base=OptimizerPart, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


_Decay = Annotated[float, Field(ge=0, lt=1)]


class _TorchOptimizer(OptimizerPart):
    weight_decay: float = Field(0.0, ge=0)
    """Factor of the decay (coupled ℓ2 but for adamw), on every trainable tensor alike."""

    def build(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimizer of torch.optim of the class's name; its arguments are the fields."""
        optimizer: Optimizer = getattr(torch.optim, type(self).__name__)(parameters, **dict(self))
        return optimizer


@register("sgd")
class SGD(_TorchOptimizer):
    """Stochastic gradient descent with momentum."""

    lr: float = Field(0.1, gt=0)
    """Learning rate at the schedule's factor 1."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the former step that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("nesterov looks ahead along a momentum: give one, or write false.")
        return nesterov


class _Adam(_TorchOptimizer):
    lr: float = Field(1e-3, gt=0)
    """Learning rate at the schedule's factor 1."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """Decay of the running mean and of the running square, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""


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
