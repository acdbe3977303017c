"""What recipes differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robustprune.report.runs import Run
from robustprune.tracking.layout import flatten

# what it is called, where it ran and was recorded, and what a mean is taken over
_NOT_RECIPE = ("name", "seed", "compute.device", "compute.threads", "data.root", "data.download")
_NOT_SECTIONS = ("tracking", "paper")
_LISTS = (("evaluate",), ("prune", "methods"))  # their items have names
_ABSENT = "absent"


class Difference(NamedTuple):
    """An option that is not the same everywhere.

    Attributes:
        option: flattened, ``prune.optimizer.lr``; an item of a list by its name, ``evaluate.pgd``.
        values: each value, as JSON or ``absent``, and whose it is.
    """

    option: str
    values: dict[str, list[str]]


def options(run: Run) -> dict[str, Any]:
    """What makes two runs runs of one recipe: every option, flattened, but those of the place.

    Nor does it matter what the recipe is called.
    """
    cut = {} if run.results.max_steps is None else {"max_steps": run.results.max_steps}
    return {k: v for k, v in flatten(_named(run)).items() if k not in _NOT_RECIPE} | cut


def differences(runs: Mapping[str, Run]) -> list[Difference]:
    """The options in which some runs differ; what they are called only if nothing else does.

    An evaluator or a pruner that a recipe does not have at all is one difference, not many.

    Args:
        runs: by what they are to be called.
    """
    recipes = {label: _collapsed(run, list(runs.values())) for label, run in runs.items()}
    names = {label: {"name": _text(run.recipe.get("name"))} for label, run in runs.items()}
    return _differing(recipes) or _differing(names)


def _differing(recipes: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    found = []
    for key in dict.fromkeys(key for recipe in recipes.values() for key in recipe):
        values: dict[str, list[str]] = {}
        for label, recipe in recipes.items():
            values.setdefault(recipe.get(key, _ABSENT), []).append(label)
        if len(values) > 1:
            found.append(Difference(key, values))
    return found


def _collapsed(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """The options as JSON, an item of a list as one if there is a run without it."""
    texts = {key: _text(value) for key, value in options(run).items()}
    for place in _LISTS:
        for name, item in _items(run, place).items():
            if any(name not in _items(other, place) for other in runs):
                prefix = ".".join((*place, name))
                texts = {k: v for k, v in texts.items() if not k.startswith(f"{prefix}.")}
                short = {k: v for k, v in item.items() if v not in (None, [], {})}
                texts[prefix] = _text(short)
    return texts


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _named(run: Run) -> dict[str, Any]:
    """The recipe with its lists of parts as mappings, so that order and number do not matter."""
    recipe = {k: v for k, v in run.recipe.items() if k not in _NOT_SECTIONS}
    if found := _items(run, ("evaluate",)):
        recipe["evaluate"] = found
    if found := _items(run, ("prune", "methods")):
        recipe["prune"] = recipe["prune"] | {"methods": found}
    return recipe


def _items(run: Run, place: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The parts in a list of the recipe by their label or name; nothing if it is no such list."""
    value: Any = run.recipe
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return {}
    named = {str(item.get("label") or item.get("name")): item for item in value}
    return named if len(named) == len(value) else {}
