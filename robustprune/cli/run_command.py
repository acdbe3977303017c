"""``robustprune run``."""

from __future__ import annotations

import shlex
import signal
from argparse import Namespace
from types import FrameType
from typing import TYPE_CHECKING

from robustprune.cli.variants import Variant, variants
from robustprune.errors import (
    DivergedError,
    FullDiskError,
    InterruptedRun,
    SoundnessError,
    UsageError,
)
from robustprune.tracking import Console, describe_store

if TYPE_CHECKING:
    from robustprune.pipeline import RunResult


def command(arguments: Namespace) -> None:
    """Run recipes to their ends and print their tables."""
    chosen = variants(arguments.recipes, overrides=arguments.overrides, sweeps=arguments.sweeps)
    if len(chosen) > 1 and arguments.out is not None:
        raise UsageError(
            f"--out names one run's folder, and {len(chosen)} runs are asked for. Leave it out: "
            "each gets a folder of its own in runs/."
        )
    signal.signal(signal.SIGTERM, _terminate)  # a scheduler's stop is an interruption
    console = Console(quiet=arguments.quiet)
    if len(chosen) == 1:
        _run(chosen[0], arguments, console, resume=arguments.resume)
    else:
        _run_all(chosen, arguments, console)


def _run_all(chosen: list[Variant], arguments: Namespace, console: Console) -> None:
    """One run after the other, all of them checked before the first one trains.

    A run that diverges, or whose certificates are unsound, does not keep the others from running.
    """
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.folder import known
    from robustprune.pipeline.plan import plan

    for variant in chosen:
        try:
            plan(variant.recipe)
        except UsageError as error:
            raise UsageError(f"{variant.recipe.name}: {error}") from error
    cut = {"max_steps": arguments.max_steps}
    failed: list[DivergedError | SoundnessError] = []
    for number, variant in enumerate(chosen, start=1):
        console.info(f"run {number} of {len(chosen)}: {variant.recipe.name}")
        done = known(variant.recipe, runs=RUNS, cut=cut, finished=True)
        if arguments.resume and done is not None:
            console.info(f"finished already in {done}")
            continue
        begun = known(variant.recipe, runs=RUNS, cut=cut, finished=False) is not None
        try:
            _run(variant, arguments, console, resume=arguments.resume and begun)
        except (DivergedError, SoundnessError) as error:
            console.error(f"{variant.recipe.name}: {error}")
            failed.append(error)
    if failed:
        raise type(failed[0])(f"{len(failed)} of {len(chosen)} runs failed, see above.")


def _run(variant: Variant, arguments: Namespace, console: Console, *, resume: bool) -> None:
    from robustprune.pipeline import RUNS, run

    try:
        result = run(
            variant.recipe,
            out=arguments.out,
            resume=resume,
            max_steps=arguments.max_steps,
            fresh=arguments.fresh,
            console=console,
        )
    except InterruptedRun as stop:
        raise InterruptedRun(f"Resume with: {_resume_line(arguments, str(stop))}") from None
    except FullDiskError as stop:
        line = _resume_line(arguments, str(stop.folder.absolute()))
        raise UsageError(f"{stop} with: {line}") from None
    _report(console, result)
    console.info(describe_store(variant.recipe.tracking, RUNS))


def _report(console: Console, result: RunResult) -> None:
    console.table(result.title, *result.table())
    console.info(
        "accuracies in percent, ± half of a 95 % interval; turnover: kept but not at first"
    )
    console.info(f"written to {result.folder}")
    page = result.folder / "report" / "report.html"
    if page.exists():
        console.info(f"a page to look at: {page}")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _resume_line(arguments: Namespace, folder: str) -> str:
    words = ["robustprune", "run", *(str(path.absolute()) for path in arguments.recipes)]
    words.append("--resume")
    if len(arguments.recipes) == 1 and not arguments.sweeps:
        words += ["--out", folder]
    for option, values in (("--set", arguments.overrides), ("--sweep", arguments.sweeps)):
        for value in values:
            words += [option, value]
    if arguments.max_steps:
        words += ["--max-steps", str(arguments.max_steps)]
    if arguments.fresh:
        words.append("--fresh")
    return shlex.join(words)
