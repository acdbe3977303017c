"""Backends: the formats that networks are exported to. Each is a file of this folder."""

from __future__ import annotations

from pkgutil import iter_modules

from robustprune.artifacts.backends.base import Backend
from robustprune.registry import Registry

registry: Registry[Backend] = Registry(
    "backends",
    base=Backend,
    modules=[f"{__name__}.{file.name}" for file in iter_modules(__path__) if file.name != "base"],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Backend", "create", "get", "names", "register"]
