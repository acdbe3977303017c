"""``robustprune check``."""

from __future__ import annotations

from argparse import Namespace

from robustprune.recipe import load_recipe
from robustprune.recipe.document import dump
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print what a recipe would do."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from robustprune.pipeline.plan import plan

    console = Console()
    planned = plan(recipe, warn=console.warn)
    console.info(dump(recipe.document()))
    console.table("weights kept, by layer", *planned.kept())
    console.table("optimizer steps, by phase", *planned.steps())
    console.info("would be written:")
    for path in planned.paths():
        console.info(f"  {path}")
    console.info(f"{arguments.recipe} is valid")
