"""Tuning: a study tries values of a recipe's options, and writes the best ones as a recipe.

A trial is an ordinary run of the recipe without its evaluators: no test image is looked at. What
trials are compared by is the loss of the objective on the validation split.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from robustprune.errors import DivergedError, InterruptedRun, UsageError, first_line
from robustprune.pipeline.candidates import Candidates, judged
from robustprune.pipeline.early import StoppedEarly, Watch
from robustprune.pipeline.jobs import Job, Start, here, work
from robustprune.pipeline.networks import networks
from robustprune.pipeline.run_folder import LOG, RunFolder, find_run, new_folder, read_json
from robustprune.pipeline.runner import run
from robustprune.pipeline.spaces import Space, parse_space
from robustprune.pipeline.study import FAULTS, SAMPLERS, Study
from robustprune.pipeline.trials import BEST, FailedTrialsError, Trial, TuneResult, write_best
from robustprune.recipe import Recipe, load_recipe
from robustprune.recipe.packaged import find
from robustprune.tracking import RUNS, Console, Tracker, TrackingOptions, check_store
from robustprune.version import __version__

_MOST = 1000
_INTERRUPTED = 130  # the exit code of a command that was asked to stop


def tune(
    recipe: str | Path,
    *,
    over: Sequence[str],
    trials: int = 20,
    overrides: Sequence[str] = (),
    sampler: str = "tpe",
    out: str | Path | None = None,
    resume: bool = False,
    max_steps: int | None = None,
    jobs: int = 1,
    start: Start | None = None,
    storage: str | None = None,
    trial: int | None = None,
    runs: str | Path = RUNS,
    console: Console | None = None,
) -> TuneResult:
    """Search options of a recipe for the lowest loss on its validation split.

    The loss is that of the last epoch of each pruned network's last stage, the mean over the pruned
    networks (of the dense one, if there is no other). It is the recipe's objective's.

    Args:
        recipe: a file, or the name of one that comes with the package.
        over: ``key=space``s; see `robustprune.pipeline.spaces`.
        trials: how many; with ``grid`` how many points of each range.
        overrides: ``key=value`` changes for all trials, as ``--set`` takes them.
        sampler: one of `SAMPLERS`.
        out: the study's folder; a new one in ``runs/<recipe name>-tune/`` if absent.
        resume: go on with ``out``, or with the newest unfinished study of these arguments.
        max_steps: cut each stage after so many optimizer steps.
        jobs: trials at a time, each in a process of its own if there are several. What is tried
            then depends on which ones end first; only with one it is the same again.
        start: where those processes are started; by default on this machine.
        storage: where Optuna keeps the study, if not in the study's folder: a database's URL, or a
            file for its journal.
        trial: do only this one of the study in ``out``: a job's work.
        runs: as for `run`; dense networks are shared there.
        console: where progress is shown.

    Raises:
        UsageError: the recipe or a space is at fault, or no trial came to its end.
        FailedTrialsError: processes of some trials have died; the others were done.
        InterruptedRun: it was asked to stop; it can be gone on with.
    """
    runs, console = Path(runs), console or Console()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("tune works in one process: start it without a launcher.")
    if sampler not in SAMPLERS:
        raise UsageError(f"no sampler '{sampler}'. Choices: {', '.join(SAMPLERS)}.")
    if jobs > 1 and runs != RUNS:
        raise UsageError(f"jobs share their dense networks in {RUNS}. Leave 'runs' out.")
    if trials < 1:
        raise UsageError(f"trials: expected a whole number from 1 on, got {trials}.")
    # options of a part behind the part: a name that is set drops what was set of another one
    spaces = sorted(map(parse_space, over), key=lambda space: space.key.count("."))
    keys = [space.key for space in spaces]
    if not keys:
        raise UsageError("over: name one option or more, e.g. 'prune.optimizer.lr=log(0.1,1000)'.")
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UsageError(f"--over {twice[0]}: it is there twice. Name each option once.")
    for key, assignment in itertools.product(keys, overrides):
        if assignment.partition("=")[0].strip().startswith(f"{key}."):  # the key: a first trial
            raise UsageError(
                f"--set {assignment}: --over {key} replaces it in every trial. Leave it out, or "
                f"write it into the values: --over '{key}=[{{…}}, {{…}}]'."
            )
    about = (find(recipe), spaces, trials, tuple(overrides), sampler, max_steps, storage)
    study = _Study(*about, runs, console, jobs, here(jobs) if jobs > 1 and not start else start)
    if trial is not None:
        return study.do_one(Path(out or "."), trial)
    study.candidates.check()
    return study.finish(None if out is None else Path(out), resume=resume)


@dataclass
class _Study:
    """One study; see `tune`."""

    path: Path
    spaces: list[Space]
    count: int
    overrides: tuple[str, ...]
    sampler: str
    max_steps: int | None
    storage: str | None
    runs: Path
    console: Console
    jobs: int
    start: Start | None

    def __post_init__(self) -> None:
        """Find the recipes that may be tried, and all of a grid."""
        about = (self.path, self.overrides, self.spaces, self.max_steps, self.console)
        self.candidates = Candidates(*about)
        self.whole = load_recipe(self.path, self.overrides)
        keys = [space.key for space in self.spaces]
        points = [space.points(self.count) for space in self.spaces if self.sampler == "grid"]
        self.total = math.prod(map(len, points)) if points else self.count
        if self.total > _MOST:
            raise UsageError(
                f"{self.total:,} trials are too many; {_MOST} are the most. Try fewer."
            )
        self.trials: dict[int, Trial] = {}
        self.began: dict[int, float] = {}
        self.failed: list[str] = []
        self.grid = [dict(zip(keys, one, strict=True)) for one in itertools.product(*points) if one]

    def finish(self, out: Path | None, *, resume: bool) -> TuneResult:
        """Do what is left of the study."""
        named = self.whole.model_copy(update={"name": f"{self.whole.name}-tune"})
        cut = {"max_steps": self.max_steps, "sampler": self.sampler}
        cut |= {f"over.{space.key}": space.text for space in self.spaces}
        cut |= {"points": self.count} if self.grid else {}
        cut |= {"storage": self.storage} if self.storage else {}
        check_store(named.tracking, self.runs)
        if (bad := re.search(r"[%?]", str((out or self.runs).absolute()))) is not None:
            raise UsageError(f"SQLite opens no file in a folder with {bad[0]} in it. Use --out.")
        path = find_run(named, runs=self.runs, out=out, cut=cut, resume=resume)
        with ExitStack() as held:
            self.folder = RunFolder(path or out or new_folder(self.runs / named.name))
            held.callback(self.folder.close)
            if path is None:
                self.folder.begin(named, cut=cut, resume=resume)
            else:
                self.folder.reopen(named)
            doing = "tuning" if path is None else "going on with tuning"
            self.console.info(f"{doing} {self.whole.name} in {self.folder.path}")
            self.tracker = Tracker(
                named.tracking,
                folder=self.folder.path,
                runs=self.runs,
                warn=self.console.warn,
                later="the same command with --resume records what is missing",
            )
            return self._search(named)

    def _search(self, named: Recipe) -> TuneResult:
        about = {"over": {space.key: space.text for space in self.spaces}, "sampler": self.sampler}
        params = {**named.document(), "evaluate": [], **about}
        facts = {"recipe": named.name, "seed": named.seed, "robustprune": __version__}
        self.facts = {**facts, "params": params, "max_steps": self.max_steps}
        self.tracker.start(self.facts)
        status = "FAILED"
        try:
            self._open()
            for trial in self.study.ended():
                self._see(trial, again=True)
            if self.start is None:
                for number in self._left():
                    self._begin(number)
                    self._try(number)
                    self._end(number)
            else:
                work(self._jobs(), start=self.start, most=self.jobs, ended=self._job_ended)
            if self.failed:
                many = f"{len(self.failed)} of {self.total}"
                raise FailedTrialsError(f"{many} trials failed, see above.")
            best = min(self.trials.values(), key=lambda trial: trial.loss)
            if not math.isfinite(best.loss):
                raise UsageError(
                    f"no trial came to its end. The last one: {best.end}. Try other spaces."
                )
            self.tracker.metrics(None, {"best/val_loss": best.loss, "best/trial": best.number})
            self.folder.finish()
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise InterruptedRun(self.folder.path.absolute()) from None
        except FAULTS as error:
            reason = first_line(error.__cause__ or error)
            where = self.storage or self.folder.path / "study.db"
            raise UsageError(
                f"{where} cannot be read or written: {reason}. Mend that, "
                "or delete it, and go on with --resume: trials that have ended are not run again."
            ) from None
        finally:
            self.tracker.finish(status)
            self.tracker.close()
        ordered = [self.trials[number] for number in sorted(self.trials)]
        return TuneResult(self.folder.path, ordered, self.tracker.where)

    def do_one(self, folder: Path, number: int) -> TuneResult:
        """Do one trial of a study that another process has begun, and tracks."""
        self.folder, warn = RunFolder(folder), self.console.warn
        off = TrackingOptions(enabled=False)
        self.tracker = Tracker(off, folder=folder, runs=self.runs, warn=warn)
        self._open()
        self._try(number)
        return TuneResult(folder, [self.study.told(number)], self.tracker.where)

    def _open(self) -> None:
        self.study = Study(
            self.folder.path,
            storage=self.storage,
            spaces=self.spaces,
            sampler=self.sampler,
            seed=self.whole.seed,
            fixed=self._fixed,
        )

    def _left(self) -> Iterator[int]:
        """The trials that are left to do, the next one when it is asked for."""
        return (number for number in range(self.total) if number not in self.trials)

    def _jobs(self) -> Iterator[Job]:
        """A job for each trial that is left."""
        words = [f"--over={space.key}={space.text}" for space in self.spaces]
        words += [f"--set={override}" for override in self.overrides]
        words += [f"--trials={self.count}", f"--sampler={self.sampler}"]
        words += [f"--out={self.folder.path}"]
        words += [f"--max-steps={self.max_steps}"] if self.max_steps else []
        words += [f"--storage={self.storage}"] if self.storage else []
        for number in self._left():
            self._begin(number)
            folder = self._folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            own = ("tune", str(self.path), *words, f"--trial={number}")
            yield Job(str(number), own, folder / LOG)

    def _job_ended(self, job: Job, code: int) -> None:
        """See a job's end; a trial that has none is done again when the study is gone on with."""
        number = int(job.name)
        if code == 0:
            self._end(number)
        else:
            self.failed.append(job.name)
            stopped = code in (_INTERRUPTED, -signal.SIGTERM)  # it had not come to taking requests
            reason = "stopped" if stopped else job.said(code)
            say = self.console.info if stopped else self.console.error
            say(f"{self._title(number)}: {reason}, see {job.log}")

    def _fixed(self, number: int) -> dict[str, str]:
        """Values that are not the sampler's to choose: a grid's, or at first the recipe's own."""
        if self.grid:
            return self.grid[number]
        return self.candidates.own if number == 0 else {}

    def _begin(self, number: int) -> None:
        """Choose what a trial tries."""
        self.began[number] = time.monotonic()
        self._track(Trial(number, self.study.choose(number)))

    def _try(self, number: int) -> None:
        """Make a trial, and tell Optuna how it ended."""
        loss, end = self._outcome(self.study.told(number))
        self.study.end(number, loss, end)

    def _end(self, number: int) -> None:
        """Tell people how a trial ended."""
        trial = self.study.told(number)
        for path in (self._folder(number) / "state").glob("*.pt"):  # it was stopped, or diverged
            path.unlink()
        shown = f"val_loss {trial.loss:.4f}" if math.isfinite(trial.loss) else trial.end
        seconds = f"{time.monotonic() - self.began[number]:.1f} s"
        self.console.info(f"{self._title(number)}: {trial.shown}  {shown}  {seconds}")
        self._see(trial, again=self.start is not None)

    def _see(self, trial: Trial, *, again: bool = False) -> None:
        """Take in a trial that has ended; the best one so far becomes the recipe."""
        self.trials[trial.number] = trial
        self._track(trial, again=again)
        best = min(self.trials.values(), key=lambda trial: trial.loss)
        if math.isfinite(best.loss):
            file, many = self.folder.path / BEST, len(self.trials)
            write_best(file, best, of=many, recipe=self.path, overrides=self.overrides)

    def _outcome(self, trial: Trial) -> tuple[float | None, str]:
        """The loss of a trial, None if it is stopped, and how it ended."""
        ended = self.study.ended()
        for other in ended:
            if other.values == trial.values:
                return other.value, f"as trial {other.number}"
        try:
            recipe = self.candidates.recipe(trial.values)
        except UsageError as error:
            return math.inf, f"refused: {first_line(error)}"
        folder = self._folder(trial.number)

        def report(loss: float, step: int, epochs: int) -> None:
            self.study.report(trial.number, loss, step)
            self.tracker.metrics(trial.entry["name"], {"val_loss": loss}, step=epochs)

        stages = [stage for network in networks(recipe) for stage in network.stages]
        total = sum(stage.options.epochs - stage.start for stage in stages if stage.options)
        others = None if self.grid else [other.curve for other in ended]
        with self.console.progress(
            self._title(trial.number), total, unit="epoch", brief=True
        ) as bar:
            try:
                run(
                    recipe,
                    out=folder,
                    resume=folder.exists(),
                    max_steps=self.max_steps,
                    runs=self.runs,
                    console=Console(quiet=True),
                    watch=Watch(recipe, trial.curve, others=others, report=report, bar=bar),
                )
            except StoppedEarly as stopped:
                return None, str(stopped)
            except DivergedError:
                return math.inf, "diverged"
        losses = [_last_loss(folder / network.name / "history.json") for network in judged(recipe)]
        return statistics.fmean(losses), "finished"

    def _folder(self, number: int) -> Path:
        return self.folder.path / "trials" / f"{number:04}"

    def _title(self, number: int) -> str:
        return f"trial {number} ({number + 1} of {self.total})"

    def _track(self, trial: Trial, *, again: bool = False) -> None:
        """Show a trial in MLflow; of an earlier job's its curve ``again``, which may be missing."""
        entry = trial.entry
        self.tracker.network(entry, self.facts)
        for epoch, step in enumerate(sorted(trial.curve) if again else (), start=1):
            self.tracker.metrics(entry["name"], {"val_loss": trial.curve[step]}, step=epoch)
        if trial.end:
            self.tracker.complete(entry)


def _last_loss(history: Path) -> float:
    """The validation loss of the last epoch of a network."""
    return float(read_json(history, [])[-1]["metrics"]["val_loss"])
