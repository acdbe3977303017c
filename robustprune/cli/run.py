"""Train a dense network, prune it by every method at every density, finetune, and judge each.

  robustprune run recipes/quickstart.yaml
  robustprune run recipes/cifar10/cnn_small_trades.yaml --set seed=1 --set prune.densities=[0.01]
  robustprune run recipes/quickstart.yaml --resume     an interrupted run, from where it stopped
  robustprune run my.yaml --max-steps 2                try a recipe out in a minute
  robustprune run a.yaml b.yaml --seeds 0..4           ten runs (a-seed-0, …), and their means
  robustprune run my.yaml --seeds 0..4 --jobs 2        two at a time, each in its own process
  robustprune run my.yaml --processes 4                share each batch among four GPUs, or cores

Ctrl-C or SIGTERM: the step under way is finished and saved, and the line that resumes is printed.

With --jobs or --cluster each run is a process of its own that writes log.txt into its folder. One
that fails is named, and the others go on; --resume goes on with all that have not finished.

A dense network that runs share is trained once, kept in runs/dense/, and reused (--fresh: never).
Everything is written to runs/<recipe>/<id>/: recipe.yaml (resolved), results.json, and for each
network a folder with model.safetensors and history.json. MLflow's store is runs/mlflow.db; look at
it with `robustprune ui`.
"""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from robustprune import errors
from robustprune.cli.arguments import add_processes, add_recipes, option
from robustprune.cli.launching import is_main, launch, processes
from robustprune.cli.many import (
    add_jobs,
    at_once,
    check_several,
    has_begun,
    run_at_once,
    run_in_turn,
    words,
)
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
    option(parser, "--seeds SEEDS", "a run for each, e.g. 0..4 or 0,1,7; one row of means for all")
    add_jobs(parser, "runs")
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
                    arguments.recipes,
                    overrides=arguments.overrides,
                    sweeps=arguments.sweeps,
                    seeds=arguments.seeds,
                )
        except KeyboardInterrupt:
            if not arguments.resume or launched():
                raise
            line = shlex.join(["robustprune", *arguments.words])
            raise errors.InterruptedRun(f"Resume with: {line}") from None
        jobs = at_once(arguments, len(chosen))
        if jobs or len(chosen) > 1:
            check_several(chosen, arguments)
        from robustprune.tracking import Console, Silent

        console = Console(quiet=arguments.quiet) if is_main() else Silent()
        if jobs:
            run_at_once(chosen, arguments, console)
        elif len(chosen) > 1:
            run_in_turn(chosen, arguments, console, _run)
        else:
            _run(chosen[0], arguments, console, resume=arguments.resume)


def _run(variant: Variant, arguments: Namespace, console: Console, *, resume: bool) -> None:
    """Do one run, in this process or in several.

    Raises:
        CommandError: it did not end well; the outcome says how to resume it.
    """
    from robustprune.cli.show import show_results
    from robustprune.pipeline import run

    try:
        if (count := processes(arguments)) > 1:
            about = {"resume": resume, "quiet": arguments.quiet}
            started = words(variant, arguments, out=arguments.out, **about)
            launch(started, processes=count, restarts=arguments.restarts or 0)
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


def _with_resume_line(outcome: Outcome, variant: Variant, arguments: Namespace) -> Outcome:
    died = outcome.kind == DIED
    outcome = replace(outcome, text=f"error: {outcome.text}") if died else outcome
    if (died or outcome.is_of(*_RESUMABLE)) and has_begun(variant, arguments):
        return resumable(outcome, arguments.words)
    return outcome
