"""Recipes: a paper setting as a file. The only place that reads YAML.

All but `load_recipe` is imported when it is first used, because torch comes with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.errors import InvalidError
from robustprune.recipe.document import read_extended
from robustprune.recipe.packaged import find

if TYPE_CHECKING:
    from robustprune.recipe.consistency import inconsistencies
    from robustprune.recipe.schema import ComputeOptions, Recipe, StageChanges, StageOptions

__all__ = ["ComputeOptions", "Recipe", "StageChanges", "StageOptions"]
__all__ += ["inconsistencies", "load_recipe"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'robustprune.recipe' has no attribute '{name}'")
    file = "consistency" if name == "inconsistencies" else "schema"
    return getattr(importlib.import_module(f"robustprune.recipe.{file}"), name)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and what it extends, apply ``key=value``s, run its imports, validate it all.

    Args:
        path: a file, or the name of a recipe that comes with the package, e.g. ``quickstart``.
        overrides: ``key=value`` changes, as ``--set`` takes them.

    Raises:
        UsageError: the file cannot be read, or an `InvalidError` that names every problem with
            its line and the nearest valid name.
    """
    path = find(path)
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    # torch comes with these, and who wrote no YAML need not wait for it
    from robustprune.components import build
    from robustprune.recipe.consistency import inconsistencies
    from robustprune.recipe.imports import import_files, run_imports
    from robustprune.recipe.schema import Recipe

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
