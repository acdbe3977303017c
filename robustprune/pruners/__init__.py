"""Pruners: ways to find the mask and the weights under it. One file a family of methods."""

from __future__ import annotations

from robustprune.pruners.base import Closure, Context, Method, Pruner, Stage, reset_grown
from robustprune.pruners.sharpness import sharpened
from robustprune.registry import Registry

registry: Registry[Pruner] = Registry(
    "pruners",
    base=Pruner,
    modules=[
        f"{__name__}.{m}"
        for m in (
            "hydra",
            "harp",
            "magnitude",
            "gradual",
            "saliency",
            "tickets",
            "scratch",
            "dynamic",
            "rewiring",
            "edge_popup",
            "twinrep",
            "admm",
            "pwoa",
            "atmc",
            "second_order",
            "mad",
        )
    ],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get

__all__ = [
    "Closure",
    "Context",
    "Method",
    "Pruner",
    "Stage",
    "create",
    "get",
    "names",
    "register",
    "reset_grown",
    "sharpened",
]
