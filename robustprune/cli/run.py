"""Train a dense network, prune it by every method at every density, finetune, and judge each.

  robustprune run recipes/quickstart.yaml
  robustprune run recipes/cifar10/cnn_small_trades.yaml --set seed=1 --set prune.densities=[0.01]
  robustprune run recipes/quickstart.yaml --resume     an interrupted run, from where it stopped
  robustprune run my.yaml --max-steps 2                try a recipe out in a minute
  robustprune run a.yaml b.yaml --sweep seed=[0,1]     four runs (a-seed-0, …), and their means
  robustprune run my.yaml --processes 4                share each batch among four GPUs, or cores

Ctrl-C or SIGTERM: the step under way is finished and saved, and the line that resumes is printed.

A dense network that runs share is trained once, kept in runs/dense/, and reused (--fresh: never).
Everything is written to runs/<recipe>/<id>/: recipe.yaml (resolved), results.json, and for each
network a folder with model.safetensors and history.json. MLflow's store is runs/mlflow.db; look at
it with `robustprune ui`.
"""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune import errors
from robustprune.cli.arguments import add_processes, add_recipes, option
from robustprune.cli.launching import is_main, launch, processes
from robustprune.cli.outcome import (
    DIED,
    CommandError,
    Outcome,
    launched,
    outcome_of,
    resumable,
)
from robustprune.stopping import orderly, stoppable

if TYPE_CHECKING:  # torch and rich come with them
    from robustprune.cli.variants import Variant
    from robustprune.tracking import Console

_RESUMABLE = (errors.InterruptedRun, KeyboardInterrupt, errors.FullDiskError, errors.OwnCodeError)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_recipes(parser)
    text = "a run for each value; given several times, for each combination"
    option(parser, "--sweep KEY=[VALUE,…]", text, action="append", default=[], dest="sweeps")
    option(parser, "--out DIR", "the run's folder (default: a new one)")
    option(parser, "--resume", "go on with --out, or with the newest unfinished run")
    option(parser, "--max-steps N", "cut each stage after N optimizer steps")
    option(parser, "--fresh", "train the dense network even if an earlier run has trained the same")
    add_processes(parser)
    option(parser, "--quiet", "print warnings and errors only")


def command(arguments: Namespace) -> None:
    """Run recipes to their ends and print their tables."""
    with stoppable():
        try:
            with orderly():  # a library whose import is cut short fails in its own way
                from robustprune.cli.variants import variants

                chosen = variants(
                    arguments.recipes, overrides=arguments.overrides, sweeps=arguments.sweeps
                )
        except KeyboardInterrupt:
            if not arguments.resume or launched():
                raise
            line = shlex.join(["robustprune", *arguments.words])
            raise errors.InterruptedRun(f"Resume with: {line}") from None
        _check_alone(chosen, arguments)
        from robustprune.tracking import Console, Silent

        console = Console(quiet=arguments.quiet) if is_main() else Silent()
        if len(chosen) == 1:
            _run(chosen[0], arguments, console, resume=arguments.resume)
        else:
            _run_all(chosen, arguments, console)


def _check_alone(chosen: list[Variant], arguments: Namespace) -> None:
    """Make sure that several runs have a folder each, and processes one after the other."""
    if len(chosen) > 1:
        asked = f"{len(chosen)} runs are asked for"
        if arguments.out is not None:
            raise errors.UsageError(f"--out names one run's folder, and {asked}. Leave it out.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise errors.UsageError(
                f"{asked} in processes that a launcher has started, which end with the first one. "
                "Start each by itself, or use --processes."
            )


def _run_all(chosen: list[Variant], arguments: Namespace, console: Console) -> None:
    """Do one run after the other, all of them checked before the first one trains.

    A run that diverges, or whose certificates are unsound, does not keep the others from running.
    """
    from robustprune.cli.compare import compare
    from robustprune.pipeline.plan import plan

    for variant in chosen:
        try:
            plan(variant.recipe)
        except errors.UsageError as error:
            raise errors.UsageError(f"{variant.recipe.name}: {error}") from error
    failed: list[Outcome] = []
    for number, variant in enumerate(chosen, start=1):
        console.info(f"run {number} of {len(chosen)}: {variant.recipe.name}")
        try:
            if arguments.resume and (done := _newest(variant, arguments, finished=True)):
                console.info(f"finished already in {done}")
            else:
                resume = arguments.resume and _has_begun(variant, arguments)
                _run(variant, arguments, console, resume=resume)
        except CommandError as error:
            if not error.outcome.is_of(errors.DivergedError, errors.SoundnessError):
                raise
            failed.append(error.outcome)
            console.error(f"{variant.recipe.name}: {error.outcome.text.removeprefix('error: ')}")
    ended = [_newest(variant, arguments, finished=True) for variant in chosen]
    if len(folders := [folder for folder in ended if folder is not None]) > 1:
        console.info("")
        compare(folders, console)
    if failed:
        worst = min(failed, key=lambda outcome: outcome.code)  # unsound before diverged
        text = f"error: {len(failed)} of {len(chosen)} runs failed, see above."
        raise CommandError(replace(worst, text=text))


def _run(variant: Variant, arguments: Namespace, console: Console, *, resume: bool) -> None:
    """Do one run, in this process or in several.

    Raises:
        CommandError: it did not end well; the outcome says how to resume it.
    """
    from robustprune.cli.show import show_results
    from robustprune.pipeline import run

    try:
        if (count := processes(arguments)) > 1:
            words = _words(variant, arguments, resume=resume)
            launch(words, processes=count, restarts=arguments.restarts or 0)
            return
        result = run(
            variant.recipe,
            out=arguments.out,
            resume=resume,
            max_steps=arguments.max_steps,
            fresh=arguments.fresh,
            console=console,
        )
    except (Exception, KeyboardInterrupt) as error:
        if launched():
            raise  # it is for the launcher to say how to resume
        raise CommandError(_with_resume_line(outcome_of(error), variant, arguments)) from error
    show_results(console, result)
    console.info(f"written to {result.folder}")
    if result.page is not None:
        console.info(f"a page to look at: {result.page}")
    console.info(result.tracked)


def _words(variant: Variant, arguments: Namespace, *, resume: bool) -> list[str]:
    """Return what each of several processes is told of the run."""
    words = ["run", str(variant.path), *(f"--set={change}" for change in variant.overrides)]
    values = {"--out": arguments.out, "--max-steps": arguments.max_steps}
    words += [f"{name}={value}" for name, value in values.items() if value]
    flags = {"--fresh": arguments.fresh, "--quiet": arguments.quiet, "--resume": resume}
    return [*words, *(name for name, given in flags.items() if given)]


def _with_resume_line(outcome: Outcome, variant: Variant, arguments: Namespace) -> Outcome:
    died = outcome.kind == DIED
    outcome = replace(outcome, text=f"error: {outcome.text}") if died else outcome
    if (died or outcome.is_of(*_RESUMABLE)) and _has_begun(variant, arguments):
        return resumable(outcome, arguments.words)
    return outcome


def _has_begun(variant: Variant, arguments: Namespace) -> bool:
    if arguments.out is None:
        return _newest(variant, arguments, finished=False) is not None
    return Path(arguments.out, "state", "run.json").is_file()


def _newest(variant: Variant, arguments: Namespace, *, finished: bool) -> Path | None:
    """Return the newest run of the variant in runs/ that has finished, or that has not."""
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.run_folder import newest_run

    cut = {"max_steps": arguments.max_steps}
    return newest_run(variant.recipe, runs=RUNS, cut=cut, finished=finished)
