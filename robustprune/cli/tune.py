"""Search options of a recipe for the lowest loss on its validation split.

  robustprune tune recipes/quickstart.yaml --over 'prune.optimizer.lr=log(0.1,1000)' --trials 15
  robustprune tune my.yaml --over 'finetune.optimizer.lr=log(1e-3,1)' --over 'finetune.epochs=[5,9]'
  robustprune tune my.yaml --over 'prune.optimizer=[sgd,adam]' --set 'prune.densities=[0.05]'
  robustprune tune my.yaml --over 'prune.methods.0.allocation=[uniform,erk]' --sampler grid
  robustprune tune my.yaml --over 'prune.optimizer.lr=log(0.1,1000)' --jobs 4     four at once
  robustprune tune my.yaml --over 'prune.optimizer.lr=log(0.1,1000)' --resume     what stopped

Spaces: log(a,b) and uniform(a,b) are numbers, int(a,b) whole ones, both ends included; [a,b,c] are
values or names. Quote them, for shells read brackets. Keys are those of --set, several --over are
tried together.

A trial is a run of the recipe without its evaluators, so that no test image is looked at. What it
is judged by is the loss of the recipe's own objective on the validation split, after the last epoch
of each pruned network, averaged over all of them: narrow the recipe with --set to save time. The
first trial has the recipe's own values; one that is behind most others is stopped early; one that
diverges counts as infinitely bad. A dense network that trials share is trained once. With --jobs
trials are processes, and a trial is drawn before others have ended: the same study again may try
other values. Only with one job it comes to the same.

Everything is written to runs/<recipe>-tune/<id>/: best.yaml, a recipe with the best values, which
extends yours; study.db, Optuna's; and a run folder for each trial. In `robustprune ui` a study is a
run that holds one run per trial: tick some and press Compare.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from robustprune import errors
from robustprune.cli import typed
from robustprune.cli.arguments import add_overrides, option
from robustprune.cli.many import add_jobs, at_once, starter
from robustprune.cli.outcome import FAULT, CommandError, Outcome, outcome_of, resumable
from robustprune.stopping import orderly, stoppable


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "a file, or a name that `robustprune recipes` lists, e.g. quickstart"
    parser.add_argument("recipe", type=typed.recipe, metavar="RECIPE", help=text)
    text = "what to try for an option; several times, for several options"
    option(parser, "--over KEY=SPACE", text, action="append", required=True)
    text = "how many; with --sampler grid the points of each range (default: 20)"
    option(parser, "--trials N", text, default=20)
    text = "tpe learns from earlier trials (default); grid tries every combination, and stops none"
    option(parser, "--sampler NAME", f"{text}; random", default="tpe")
    add_overrides(parser)
    add_jobs(parser, "trials")
    option(parser, "--storage WHERE", "Optuna's: a database's URL or a journal file; for clusters")
    text = "do this one trial of the study in --out, from 0; what --jobs starts"
    option(parser, "--trial NUMBER", text, type=int)
    option(parser, "--out DIR", "the study's folder (default: a new one)")
    option(parser, "--resume", "go on with --out, or with the newest unfinished study")
    option(parser, "--max-steps N", "cut each stage after N optimizer steps")
    option(parser, "--quiet", "print warnings and errors only")


def command(arguments: Namespace) -> None:
    """Make a study and print its table."""
    with stoppable():
        with orderly():  # a library whose import is cut short fails in its own way
            from robustprune.pipeline.trials import FailedTrialsError
            from robustprune.pipeline.tuning import tune
            from robustprune.tracking import Console
        console, recipe = Console(quiet=arguments.quiet), Path(arguments.recipe)
        most = 1000 if arguments.sampler == "grid" else arguments.trials
        several = at_once(arguments, arguments.trials)
        start, jobs = starter(arguments, count=most, most=4) if several else (None, 1)
        try:
            result = tune(
                recipe,
                over=arguments.over,
                trials=arguments.trials,
                overrides=arguments.overrides,
                sampler=arguments.sampler,
                out=arguments.out,
                resume=arguments.resume,
                max_steps=arguments.max_steps,
                jobs=jobs,
                start=start,
                storage=arguments.storage,
                trial=arguments.trial,
                console=console,
            )
        except (errors.InterruptedRun, errors.FullDiskError) as error:
            raise CommandError(resumable(outcome_of(error), arguments.words)) from error
        except FailedTrialsError as error:
            outcome = Outcome(FAULT, "", f"error: {error}")
            raise CommandError(resumable(outcome, arguments.words)) from None
    console.table(f"{recipe}, {len(result.trials)} trials", *result.table())
    console.info(f"the best values: {result.best.shown}")
    console.info(f"as a recipe: {result.recipe}")
    console.info(result.tracked)
