"""Several runs in one command: one after the other, or many at once as jobs of their own."""

from __future__ import annotations

import os
import signal
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune import errors
from robustprune.cli.arguments import option
from robustprune.cli.outcome import (
    FAULT,
    INTERRUPTED,
    OK,
    USAGE,
    CommandError,
    Outcome,
    outcome_of,
    resumable,
)

if TYPE_CHECKING:  # torch and rich come with them
    from collections.abc import Callable, Sequence

    from robustprune.cli.variants import Variant
    from robustprune.pipeline.jobs import Job, Process, Start
    from robustprune.tracking import Console


def add_jobs(parser: ArgumentParser, what: str) -> None:
    """Add ``--jobs``, ``--cluster`` and ``--slurm``; ``what`` is done by them."""
    option(parser, "--jobs N", f"{what} at once, with the cores and GPUs shared out (default: 1)")
    text = f"{what} as jobs of a cluster, by submitit: slurm, or local to try it out"
    option(parser, "--cluster NAME", f"{text}; at most --jobs at a time")
    text = "for submitit, e.g. partition=gpu, time=600, gpus_per_node=1; several times"
    option(parser, "--slurm KEY=VALUE", text, action="append", default=[])


def at_once(arguments: Namespace, count: int) -> bool:
    """Return whether so many runs or trials are to be jobs of their own."""
    if arguments.slurm and arguments.cluster is None:
        raise errors.UsageError("--slurm is about jobs of --cluster slurm. Add that.")
    return arguments.cluster is not None or (count > 1 and (arguments.jobs or 1) > 1)


def starter(
    arguments: Namespace, *, count: int, processes: int = 1, most: int = 1000
) -> tuple[Start, int]:
    """Return what starts jobs as the arguments say, and how many at a time.

    Args:
        arguments: of the command.
        count: of jobs that there may be: the cores are shared by no more.
        processes: of each job.
        most: jobs of SLURM at a time where ``--jobs`` is absent.
    """
    if arguments.cluster is None:
        from robustprune.pipeline.jobs import here

        jobs = min(arguments.jobs or 1, count)
        return here(jobs, processes=processes), jobs
    from robustprune.cli.cluster import submitting

    most = min(arguments.jobs or (1 if arguments.cluster == "local" else most), count)
    return submitting(arguments.cluster, arguments.slurm, most=most), most


def check_several(chosen: Sequence[Variant], arguments: Namespace) -> None:
    """Make sure that several runs have a folder each, and that all recipes can be run.

    Raises:
        UsageError: they have not, or one cannot.
    """
    from robustprune.pipeline.plan import plan

    asked = f"{len(chosen)} runs are asked for"
    if arguments.out is not None:
        why = asked if len(chosen) > 1 else "jobs of a cluster get folders of their own"
        raise errors.UsageError(f"--out names one run's folder, and {why}. Leave it out.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise errors.UsageError(
            f"{asked} in processes that a launcher has started, which end with the first one. "
            "Start each by itself, or use --processes."
        )
    for variant in chosen:
        try:
            plan(variant.recipe)
        except errors.UsageError as error:
            raise errors.UsageError(f"{variant.recipe.name}: {error}") from error


def run_in_turn(
    chosen: Sequence[Variant],
    arguments: Namespace,
    console: Console,
    run: Callable[..., None],
) -> None:
    """Do one run after the other.

    A run that diverges, or whose certificates are unsound, does not keep the others from running.
    """
    failed: list[Outcome] = []
    for number, variant in enumerate(chosen, start=1):
        console.info(f"run {number} of {len(chosen)}: {variant.recipe.name}")
        try:
            if arguments.resume and (done := newest(variant, arguments, finished=True)):
                console.info(f"finished already in {done}")
            else:
                resume = arguments.resume and has_begun(variant, arguments)
                run(variant, arguments, console, resume=resume)
        except CommandError as error:
            if not error.outcome.is_of(errors.DivergedError, errors.SoundnessError):
                raise
            failed.append(error.outcome)
            console.error(f"{variant.recipe.name}: {error.outcome.text.removeprefix('error: ')}")
    _compare(chosen, arguments, console)
    if failed:
        worst = min(failed, key=lambda outcome: outcome.code)  # unsound before diverged
        text = f"error: {len(failed)} of {len(chosen)} runs failed, see above."
        raise CommandError(replace(worst, text=text))


def run_at_once(chosen: Sequence[Variant], arguments: Namespace, console: Console) -> None:
    """Do runs as jobs, each by the command that one would type for it, which goes on if it can.

    Raises:
        CommandError: some failed, which were named, or this process was asked to stop.
    """
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.jobs import Job, work
    from robustprune.pipeline.run_folder import LOG, new_folder

    start, most = starter(arguments, count=len(chosen), processes=arguments.processes or 1)
    jobs: list[Job] = []
    codes: dict[str, int] = {}
    each = {"--processes": arguments.processes, "--restarts": arguments.restarts}
    shared = [f"{name}={value}" for name, value in each.items() if value]
    for variant in chosen:
        name, resume = variant.recipe.name, arguments.resume
        if resume and (done := newest(variant, arguments, finished=True)):
            console.info(f"{name}: finished already in {done}")
            continue
        begun = newest(variant, arguments, finished=False) if resume else None
        folder = begun or new_folder(RUNS / name)
        own = (*words(variant, arguments, out=folder, resume=True), *shared)
        jobs.append(Job(name, own, folder / LOG))
    if jobs:
        runs = f"{len(jobs)} run{'s'[: len(jobs) > 1]}"
        console.info(f"{runs}, {min(most, len(jobs))} at a time")

    def begin(job: Job, slot: int) -> Process:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        console.info(f"{job.name}: started, see {job.log}")
        return start(job, slot)

    def ended(job: Job, code: int) -> None:
        codes[job.name] = code
        state = f"{len(codes)} of {len(jobs)} ended"
        if code in (OK, INTERRUPTED, -signal.SIGTERM):  # it had not come to taking requests
            console.info(f"{job.name}: {'stopped' if code else 'done'} ({state})")
        else:
            console.error(f"{job.name}: {job.said(code)} ({state}; see {job.log})")

    try:
        work(iter(jobs), start=begin, most=most, ended=ended)
    except KeyboardInterrupt as error:
        raise CommandError(resumable(outcome_of(error), arguments.words)) from None
    _compare(chosen, arguments, console)
    if failed := [code for code in codes.values() if code != OK]:
        text = f"error: {len(failed)} of {len(chosen)} runs failed, see above."
        outcome = Outcome(USAGE if set(failed) == {USAGE} else FAULT, "", text)
        again = outcome.code == FAULT  # what is at fault in a recipe, or diverges, does so again
        raise CommandError(resumable(outcome, arguments.words) if again else outcome)


def words(
    variant: Variant, arguments: Namespace, *, out: Path | None, resume: bool, quiet: bool = False
) -> tuple[str, ...]:
    """Return the command of one run: what follows ``robustprune``."""
    values = {"--out": out, "--max-steps": arguments.max_steps}
    flags = {"--fresh": arguments.fresh, "--quiet": quiet, "--resume": resume}
    return (
        *("run", str(variant.path), *(f"--set={change}" for change in variant.overrides)),
        *(f"{name}={value}" for name, value in values.items() if value),
        *(name for name, given in flags.items() if given),
    )


def newest(variant: Variant, arguments: Namespace, *, finished: bool) -> Path | None:
    """Return the newest run of the variant in runs/ that has finished, or that has not."""
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.run_folder import newest_run

    cut = {"max_steps": arguments.max_steps}
    return newest_run(variant.recipe, runs=RUNS, cut=cut, finished=finished)


def has_begun(variant: Variant, arguments: Namespace) -> bool:
    """Return whether there is a run of the variant that can be gone on with."""
    if arguments.out is None:
        return newest(variant, arguments, finished=False) is not None
    return Path(arguments.out, "state", "run.json").is_file()


def _compare(chosen: Sequence[Variant], arguments: Namespace, console: Console) -> None:
    """Print one table of all runs that have finished."""
    from robustprune.cli.compare import compare

    ended = [newest(variant, arguments, finished=True) for variant in chosen]
    if len(folders := [folder for folder in ended if folder is not None]) > 1:
        console.info("")
        compare(folders, console)
