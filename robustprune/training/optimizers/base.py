"""What every optimizer is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from robustprune.errors import ContractError
from robustprune.parts import Part

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


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
        """What `build` makes, if it is an optimizer.

        Raises:
            ContractError: it is something else.
        """
        optimizer = self.build(parameters)
        if hasattr(optimizer, "param_groups"):
            return optimizer
        name, found = self.registered_name, type(optimizer).__name__
        message = f"optimizer '{name}' must build a torch.optim.Optimizer; got {found}."
        raise ContractError(self, message)
