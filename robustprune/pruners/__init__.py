"""Pruners: ways to find the mask."""

from __future__ import annotations

from robustprune.pruners.base import LearnedPruner, OneShotPruner, Pruner
from robustprune.registry import Registry

registry: Registry[Pruner] = Registry(
    "pruners",
    base=Pruner,
    modules=[f"{__name__}.{module}" for module in ("hydra", "magnitude", "random")],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["LearnedPruner", "OneShotPruner", "Pruner", "create", "get", "names", "register"]
