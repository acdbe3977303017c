"""Validate recipes, and print what one would do without training.

Of one recipe: the recipe resolved, how many weights each layer keeps at each density, the number
of steps, and what would be written where. Exit 2 if anything is wrong; every problem is named with
its line.

  robustprune check my.yaml --set prune.densities=[0.01]
  robustprune check recipes/paper/*.yaml      of several one line each; no data is read
  robustprune check --part my_loss.py         does a part of your own do what its family promises?
  robustprune check my.yaml --time            and how long it would take on this machine

The estimate of --time rests on two steps of each stage and a batch of each evaluator, which are
done as a run does them, in a folder that is deleted.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from robustprune.cli import typed
from robustprune.cli.arguments import add_recipes, option
from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.messages import left_dense

if TYPE_CHECKING:  # torch and rich come with them
    from robustprune.pipeline.plan import Plan
    from robustprune.tracking import Console


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_recipes(parser, nargs="*")
    text = "check the parts that this file registers by their families' contracts; no recipe needed"
    option(parser, "--part FILE", text, type=typed.path, action="append", default=[], dest="parts")
    option(parser, "--time", "time two steps of each stage, and estimate how long it takes here")


def command(arguments: Namespace) -> None:
    """Print what a recipe would do, or a line for each of several; problems of all are told."""
    if not (arguments.recipes or arguments.parts):
        arguments.parser.error("name a recipe, e.g. recipes/quickstart.yaml, or --part FILE")
    if arguments.parts:
        from robustprune.cli.parts import check_parts  # torch comes with it
        from robustprune.tracking import Console

        check_parts(arguments.parts, Console())
    if arguments.recipes:
        _check_recipes(arguments)


def _check_recipes(arguments: Namespace) -> None:
    from robustprune.components import check_installed
    from robustprune.recipe import load_recipe
    from robustprune.recipe.document import dump
    from robustprune.tracking import Console

    console = Console()
    several = len(arguments.recipes) > 1
    if several and arguments.time:
        raise UsageError("--time is for one recipe. Name one, or leave --time out.")
    problems: list[Problem] = []
    for path in arguments.recipes:
        try:
            recipe = load_recipe(path, arguments.overrides)
            check_installed(recipe)
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
    if arguments.time:
        _time(planned, console)
    else:
        console.info("--time estimates how long it would take on this machine")
    console.info(f"{path} is valid")


def _time(planned: Plan, console: Console) -> None:
    """Print how long the recipe would take."""
    from robustprune.pipeline.estimate import estimate

    found = estimate(planned, console=console)
    console.table("time, estimated", *found.table())
    for line in found.uncertainty:
        console.info(line)
