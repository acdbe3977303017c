"""``robustprune run``."""

from __future__ import annotations

import shlex
import signal
from argparse import Namespace
from types import FrameType

from robustprune.errors import InterruptedRun
from robustprune.recipe import load_recipe
from robustprune.tracking import Console, describe_store


def command(arguments: Namespace) -> None:
    """Run a recipe to its end and print its table."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    signal.signal(signal.SIGTERM, _terminate)  # a scheduler's stop is an interruption
    console = Console(quiet=arguments.quiet)
    from robustprune.pipeline import RUNS, run

    try:
        result = run(
            recipe,
            out=arguments.out,
            resume=arguments.resume,
            max_steps=arguments.max_steps,
            console=console,
        )
    except InterruptedRun as stop:
        raise InterruptedRun(f"Resume with: {_resume_line(arguments, str(stop))}") from None
    console.table(result.title, *result.table())
    console.info(
        "accuracies in percent, ± half of a 95 % interval; turnover: kept but not at first"
    )
    console.info(f"written to {result.folder}")
    console.info(describe_store(recipe.tracking, RUNS))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _resume_line(arguments: Namespace, folder: str) -> str:
    words = ["robustprune", "run", str(arguments.recipe.absolute()), "--resume", "--out", folder]
    for override in arguments.overrides:
        words += ["--set", override]
    if arguments.max_steps:
        words += ["--max-steps", str(arguments.max_steps)]
    return shlex.join(words)
