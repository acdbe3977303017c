"""Schedules: the learning rate as a function of where the stage is."""

from __future__ import annotations

from robustprune.registry import Registry
from robustprune.training.schedules.base import Schedule

registry: Registry[Schedule] = Registry(
    "schedules",
    base=Schedule,
    modules=[f"{__name__}.curves"],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Schedule", "create", "get", "names", "register"]
