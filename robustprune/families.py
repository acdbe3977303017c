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
    """What an evaluator's accuracy is called in results, from what a recipe says of it.

    Of a part that is not registered here it is the label or the name.
    """
    name = str(evaluator.get("name"))
    fields = {key: value for key, value in evaluator.items() if key != "name"}
    try:
        return str(family("evaluators").create(name, **fields).metric)
    except (UsageError, TypeError):
        return str(evaluator.get("label") or name)
