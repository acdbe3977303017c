"""``robustprune run``."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli.launching import is_main, launch, processes
from robustprune.cli.replies import DIED, ProcessError, Reply, launched
from robustprune.cli.variants import Variant, variants
from robustprune.errors import (
    DivergedError,
    FullDiskError,
    InterruptedRun,
    OwnCodeError,
    SoundnessError,
    UsageError,
)
from robustprune.stopping import stoppable
from robustprune.tracking import Console, Silent

if TYPE_CHECKING:
    from robustprune.pipeline import RunResult

_FAILED: dict[str, type[DivergedError | SoundnessError]] = {
    error.__name__: error for error in (DivergedError, SoundnessError)
}


def command(arguments: Namespace) -> None:
    """Run recipes to their ends and print their tables."""
    chosen = variants(arguments.recipes, overrides=arguments.overrides, sweeps=arguments.sweeps)
    if len(chosen) > 1 and arguments.out is not None:
        raise UsageError(
            f"--out names one run's folder, and {len(chosen)} runs are asked for. Leave it out: "
            "each gets a folder of its own in runs/."
        )
    if len(chosen) > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"{len(chosen)} runs are asked for in processes that a launcher has started, which end "
            "with the first one. Start each by itself, or use --processes."
        )
    console = Console(quiet=arguments.quiet) if is_main() else Silent()
    with stoppable():
        if len(chosen) == 1:
            _run(chosen[0], arguments, console, resume=arguments.resume)
        else:
            _run_all(chosen, arguments, console)


def _run_all(chosen: list[Variant], arguments: Namespace, console: Console) -> None:
    """One run after the other, all of them checked before the first one trains.

    A run that diverges, or whose certificates are unsound, does not keep the others from running.
    """
    from robustprune.cli.compare_command import compare
    from robustprune.pipeline.plan import plan

    for variant in chosen:
        try:
            plan(variant.recipe)
        except UsageError as error:
            raise UsageError(f"{variant.recipe.name}: {error}") from error
    failed: list[DivergedError | SoundnessError] = []
    ended: list[Path] = []
    for number, variant in enumerate(chosen, start=1):
        console.info(f"run {number} of {len(chosen)}: {variant.recipe.name}")
        wrong = _attempt(variant, arguments, console)
        if wrong is not None:
            console.error(f"{variant.recipe.name}: {wrong}")
            failed.append(wrong)
        if not isinstance(wrong, DivergedError) and (folder := _known(variant, arguments)):
            ended.append(folder)
    if len(ended) > 1:
        console.info("")
        compare(ended, console)
    if failed:
        unsound = [error for error in failed if isinstance(error, SoundnessError)]
        kind = type((unsound or failed)[0])
        raise kind(f"{len(failed)} of {len(chosen)} runs failed, see above.")


def _attempt(
    variant: Variant, arguments: Namespace, console: Console
) -> DivergedError | SoundnessError | None:
    """Do one of several runs, or find that it is done; an error that ends no other is returned."""
    if arguments.resume and (done := _known(variant, arguments)) is not None:
        console.info(f"finished already in {done}")
        return None
    resume = arguments.resume and _begun(variant, arguments)
    try:
        _run(variant, arguments, console, resume=resume)
    except (DivergedError, SoundnessError) as error:
        return error
    except ProcessError as error:
        if error.reply.kind not in _FAILED:
            raise
        return _FAILED[error.reply.kind](error.reply.text.removeprefix("error: "))
    return None


def _known(variant: Variant, arguments: Namespace, *, finished: bool = True) -> Path | None:
    """The newest run of the variant in runs/ that has finished, or that has not."""
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.folder import known

    cut = {"max_steps": arguments.max_steps}
    return known(variant.recipe, runs=RUNS, cut=cut, finished=finished)


def _run(variant: Variant, arguments: Namespace, console: Console, *, resume: bool) -> None:
    from robustprune.pipeline import run
    from robustprune.recipe.own import blamed

    if (count := processes(arguments)) > 1:
        _launch(variant, arguments, count, resume=resume)
        return
    try:
        result = run(
            variant.recipe,
            out=arguments.out,
            resume=resume,
            max_steps=arguments.max_steps,
            fresh=arguments.fresh,
            console=console,
        )
    except (InterruptedRun, FullDiskError) as stop:
        if launched():
            raise  # it is for the launcher to say how to go on
        raise _resumable(stop, arguments) from None
    except Exception as error:
        text = blamed(error)
        if launched() or not text:
            raise
        raise _mended(text, variant, arguments) from error
    _report(console, result)


def _launch(variant: Variant, arguments: Namespace, count: int, *, resume: bool) -> None:
    """Let several processes do the run, and say how to go on with it where it did not end."""
    words = _words([variant.path], overrides=variant.overrides, out=arguments.out)
    words += ["--resume"] if resume else []
    words += ["--quiet"] if arguments.quiet else []
    try:
        launch([*words, *_shortened(arguments)], processes=count, restarts=arguments.restarts or 0)
    except KeyboardInterrupt:
        if not _begun(variant, arguments):
            raise
        line = _resume_line(arguments, arguments.out)
        raise InterruptedRun(f"Resume with: {line}") from None
    except ProcessError as error:
        if error.reply.kind == OwnCodeError.__name__:
            text = error.reply.text.removeprefix("error: ")
            raise _mended(text, variant, arguments) from None
        raise _told(error.reply, arguments, begun=_begun(variant, arguments)) from None


def _mended(text: str, variant: Variant, arguments: Namespace) -> OwnCodeError:
    """What to say of an error in the user's own file, and how to go on."""
    if not _begun(variant, arguments):
        return OwnCodeError(text)
    line = _resume_line(arguments, arguments.out)
    return OwnCodeError(f"{text}\nWhat was finished is kept. Mend the file, and go on with: {line}")


def _begun(variant: Variant, arguments: Namespace) -> bool:
    """Whether there is a run to go on with."""
    out: Path | None = arguments.out
    if out is not None:
        return (out / "state" / "run.json").is_file()
    return _known(variant, arguments, finished=False) is not None


def _told(reply: Reply, arguments: Namespace, *, begun: bool) -> BaseException:
    """The error that a process's reply stands for, with the line that goes on."""
    line = _resume_line(arguments, reply.folder or arguments.out)
    if reply.kind == InterruptedRun.__name__:
        return InterruptedRun(f"Resume with: {line}")
    text = reply.text
    if reply.kind == FullDiskError.__name__:
        text = f"{text} with: {line}"
    if reply.kind == DIED and begun:
        text = f"error: {text} What was saved is kept; go on with: {line}"
    return ProcessError(replace(reply, text=text))


def _resumable(stop: InterruptedRun | FullDiskError, arguments: Namespace) -> BaseException:
    """The same, with the line that goes on."""
    if isinstance(stop, InterruptedRun):
        return InterruptedRun(f"Resume with: {_resume_line(arguments, str(stop))}")
    return UsageError(f"{stop} with: {_resume_line(arguments, stop.folder.absolute())}")


def _report(console: Console, result: RunResult) -> None:
    console.table(result.title, *result.table())
    for line in result.left_dense:
        console.info(line)
    if legend := result.legend:
        console.info(legend)
    console.info(f"written to {result.folder}")
    if result.page is not None:
        console.info(f"a page to look at: {result.page}")
    console.info(result.tracked)


def _resume_line(arguments: Namespace, folder: str | Path | None) -> str:
    one = len(arguments.recipes) == 1 and not arguments.sweeps
    paths = [path.absolute() for path in arguments.recipes]
    words = _words(paths, overrides=arguments.overrides, out=folder if one else None)
    words.append("--resume")
    for sweep in arguments.sweeps:
        words += ["--sweep", sweep]
    words += _shortened(arguments)
    for option in ("processes", "restarts"):
        if getattr(arguments, option):
            words += [f"--{option}", str(getattr(arguments, option))]
    return shlex.join(["robustprune", *words])


def _words(paths: Sequence[Path], *, overrides: Sequence[str], out: str | Path | None) -> list[str]:
    """What is typed to run recipes, but for how."""
    words = ["run", *map(str, paths)]
    words += ["--out", str(out)] if out is not None else []
    for override in overrides:
        words += ["--set", override]
    return words


def _shortened(arguments: Namespace) -> list[str]:
    """What else a run that goes on must have been told."""
    words = ["--max-steps", str(arguments.max_steps)] if arguments.max_steps else []
    return [*words, "--fresh"] if arguments.fresh else words
