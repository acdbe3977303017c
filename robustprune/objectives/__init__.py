"""Robust objectives: losses that can be minimised over weights or over scores."""

from __future__ import annotations

from robustprune.objectives.base import Loss, Objective
from robustprune.registry import Registry

registry: Registry[Objective] = Registry(
    "objectives",
    base=Objective,
    modules=[
        f"{__name__}.{m}" for m in ("adversarial", "trades", "smoothadv", "certified", "hsic")
    ],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Loss", "Objective", "create", "get", "names", "register"]
