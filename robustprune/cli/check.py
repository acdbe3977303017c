"""Validate recipes, and print what one would do without training.

Of one recipe: the recipe resolved, how many weights each layer keeps at each density, the number
of steps, and what would be written where. Exit 2 if anything is wrong; every problem is named with
its line.

  robustprune check my.yaml --set prune.densities=[0.01]
  robustprune check recipes/paper/*.yaml      of several one line each; no data is read
"""

from __future__ import annotations

from argparse import Namespace

from robustprune.cli.arguments import add_recipes
from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.messages import left_dense

add_arguments = add_recipes


def command(arguments: Namespace) -> None:
    """Print what a recipe would do, or a line for each of several; problems of all are told."""
    from robustprune.recipe import load_recipe
    from robustprune.recipe.document import dump
    from robustprune.tracking import Console

    console = Console()
    several = len(arguments.recipes) > 1
    problems: list[Problem] = []
    for path in arguments.recipes:
        try:
            recipe = load_recipe(path, arguments.overrides)
        except InvalidError as error:
            problems += error.problems
        except UsageError as error:
            problems.append(Problem((), str(error)))
        else:
            if several:
                console.info(f"{path} is valid: {recipe.name}")
    if problems:
        raise InvalidError(problems)
    if several:
        return
    from robustprune.pipeline.plan import plan  # torch comes with it

    planned = plan(recipe, warn=console.warn)
    console.info(dump(recipe.document()))
    console.table("weights kept, by layer", *planned.kept())
    for line in left_dense(planned.left_dense()):
        console.info(line)
    console.table("optimizer steps, by stage", *planned.steps())
    console.info("would be written:")
    for written in planned.paths():
        console.info(f"  {written}")
    console.info(f"{path} is valid")
