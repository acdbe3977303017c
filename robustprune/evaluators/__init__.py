"""Evaluators: they give numbers and change nothing."""

from __future__ import annotations

from robustprune.evaluators.base import Evaluator
from robustprune.registry import Registry

registry: Registry[Evaluator] = Registry(
    "evaluators",
    base=Evaluator,
    modules=[f"{__name__}.{module}" for module in ("attacks", "smoothing", "bounds")],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = ["Evaluator", "create", "get", "names", "register"]
