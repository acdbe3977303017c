"""Parts of the user's own, for commands that take no recipe to run."""

from __future__ import annotations

from pathlib import Path

from robustprune.errors import InvalidError


def import_parts(recipe: Path) -> None:
    """Run the ``imports:`` of a recipe, so that what they register can be named.

    Raises:
        UsageError: the recipe cannot be read, or an import is missing or raises.
    """
    from robustprune.recipe.extending import read_extended
    from robustprune.recipe.imports import run_imports

    document = read_extended(recipe)
    problems = run_imports(document.values.get("imports"), recipe.parent)
    if problems:
        raise InvalidError(document.located(problems))
