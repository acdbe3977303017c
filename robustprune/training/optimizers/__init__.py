"""Optimizers, by torch's own names and arguments."""

from __future__ import annotations

from robustprune.registry import Registry
from robustprune.training.optimizers.base import OptimizerPart

registry: Registry[OptimizerPart] = Registry(
    "optimizers", base=OptimizerPart, modules=[f"{__name__}.torch_optim"]
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["OptimizerPart", "create", "get", "names", "register"]
