"""Structures: what one entry of a mask covers."""

from __future__ import annotations

from robustprune.masking.selection import Ends, Structure
from robustprune.registry import Registry

registry: Registry[Structure] = Registry(
    "structures", base=Structure, modules=[f"{__name__}.{m}" for m in ("slices", "patterns")]
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Ends", "Structure", "create", "get", "names", "register"]
