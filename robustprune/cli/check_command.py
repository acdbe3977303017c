"""``robustprune check``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.recipe import Recipe, load_recipe
from robustprune.recipe.document import dump
from robustprune.sentences import left_dense
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print what a recipe would do, or of several whether they are valid."""
    console = Console()
    if len(arguments.recipes) > 1:
        _all(console, arguments.recipes, arguments.overrides)
        return
    (path,) = arguments.recipes
    recipe = load_recipe(path, arguments.overrides)
    _show(console, recipe)
    console.info(f"{path} is valid")


def _show(console: Console, recipe: Recipe) -> None:
    from robustprune.pipeline.plan import plan

    planned = plan(recipe, warn=console.warn)
    console.info(dump(recipe.document()))
    console.table("weights kept, by layer", *planned.kept())
    for phrase in left_dense(planned.left_dense()):
        console.info(phrase)
    console.table("optimizer steps, by stage", *planned.steps())
    console.info("would be written:")
    for path in planned.paths():
        console.info(f"  {path}")


def _all(console: Console, paths: list[Path], overrides: list[str]) -> None:
    """A line a recipe; every problem of every recipe is told."""
    problems: list[Problem] = []
    for path in paths:
        try:
            recipe = load_recipe(path, overrides)
        except InvalidError as error:
            problems += error.problems
        except UsageError as error:
            problems.append(Problem((), str(error)))
        else:
            console.info(f"{path} is valid: {recipe.name}")
    if problems:
        raise InvalidError(problems)
