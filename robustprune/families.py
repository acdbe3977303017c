"""The families of parts, and the package that is the registry of each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from robustprune.errors import UsageError, nearest

FAMILIES = {
    "objectives": "robustprune.objectives",
    "pruners": "robustprune.pruners",
    "structures": "robustprune.masking.structures",
    "allocations": "robustprune.masking.allocations",
    "evaluators": "robustprune.evaluators",
    "measures": "robustprune.measures",
    "backends": "robustprune.artifacts.backends",
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


def metric_of(evaluator: Mapping[str, Any]) -> str:
    """The name in results of the accuracy that an evaluator, as a recipe writes it, gives.

    For a part that is not registered here it is the label or the name.
    """
    fields = {key: value for key, value in evaluator.items() if key != "name"}
    try:
        return str(family("evaluators").create(evaluator.get("name"), **fields).metric)
    except (UsageError, TypeError):
        return str(evaluator.get("label") or evaluator.get("name"))
