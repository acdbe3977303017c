"""The families of parts, and the package that is the registry of each."""

from __future__ import annotations

import importlib
from typing import Any

from robustprune.errors import UsageError, nearest

FAMILIES = {
    "objectives": "robustprune.objectives",
    "pruners": "robustprune.pruners",
    "allocations": "robustprune.masking.allocations",
    "evaluators": "robustprune.evaluators",
    "datasets": "robustprune.datasets",
    "optimizers": "robustprune.training.optimizers",
    "schedules": "robustprune.training.schedules",
}
"""The registries' names, and the package that is each."""


def family(name: str) -> Any:
    """The `Registry` of a family, its package imported.

    Raises:
        UsageError: no such family.
    """
    if name not in FAMILIES:
        raise UsageError(f"unknown family '{name}'.{nearest(name, FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).registry
