"""Allocations: how a network-wide density becomes a number of kept weights a layer."""

from __future__ import annotations

from robustprune.masking.allocations.base import Allocation
from robustprune.registry import Registry

registry: Registry[Allocation] = Registry(
    "allocations",
    base=Allocation,
    modules=[f"{__name__}.{module}" for module in ("uniform", "overall", "erk")],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Allocation", "create", "get", "names", "register"]
