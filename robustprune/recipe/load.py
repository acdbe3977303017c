"""From a file and overrides to a recipe, or to every problem in it at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from robustprune.errors import InvalidError, Place, Problem
from robustprune.parts import build
from robustprune.recipe.extending import read_extended
from robustprune.recipe.imports import import_files, run_imports
from robustprune.recipe.schema import PhaseOptions, Recipe
from robustprune.sentences import keys_of
from robustprune.types import PhaseName


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and what it extends, apply overrides, run its imports and validate all of it.

    Args:
        path: the file.
        overrides: ``key=value``, applied to the whole.

    Raises:
        UsageError: the file cannot be read, or an `InvalidError` that names every problem with
            its line and the nearest valid name.
    """
    path = Path(path)
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    problems = run_imports(document.values.get("imports"), path.parent)
    try:
        recipe = build(Recipe, document.values)
        recipe._files = import_files(recipe.imports, path.parent)
        problems += inconsistencies(recipe)
    except InvalidError as error:
        problems += error.problems
    if document.problems or problems:
        raise InvalidError([*document.problems, *document.located(problems)])
    return recipe


def inconsistencies(recipe: Recipe) -> list[Problem]:
    """What is wrong although each value is right by itself."""
    problems = []
    for name in get_args(PhaseName):
        phase, objective = recipe.phase(name), recipe.objective_of(name)
        if phase is None:
            continue
        if phase.select == "best" and not getattr(recipe.data, "validation", 0):
            message = "needs a validation split: set data.validation, e.g. 0.04, or select: last."
            problems.append(Problem((name, "select"), message))
        if phase.accumulate > 1 and getattr(objective, "repeats", 1) > 1:
            message = f"objective '{objective.registered_name}' repeats batches: use 1."
            problems.append(Problem((name, "accumulate"), message))
    if recipe.pretrain is None and recipe.model.weights is None:
        message = (
            "this key is required. Trains the dense network. Keys: "
            f"{', '.join(keys_of(PhaseOptions))}. Or name a trained network's file: model.weights."
        )
        problems.append(Problem(("pretrain",), message))
    labels = "give it a 'label' of its own, or drop it."
    if recipe.prune is not None:
        variants = [getattr(method, "variant", "") for method in recipe.prune.methods]
        problems += _twice(("prune", "methods"), variants, labels)
        densities = [f"{density:g}" for density in recipe.prune.densities]
        problems += _twice(("prune", "densities"), densities, "drop it.")
    metrics = [getattr(evaluator, "metric", "") for evaluator in recipe.evaluate]
    return problems + _twice(("evaluate",), metrics, labels)


def _twice(place: Place, names: Sequence[str], remedy: str) -> list[Problem]:
    return [
        Problem((*place, index), f"'{name}' stands {names.count(name)} times; {remedy}")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
