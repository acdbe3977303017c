"""Tuning: a study tries values of a recipe's options, and writes the best ones as a recipe.

A trial is an ordinary run of the recipe without its evaluators: no test image is looked at. What
trials are compared by is the loss of the objective on the validation split. The only place that
imports Optuna.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from robustprune.errors import DivergedError, InterruptedRun, UsageError, first_line
from robustprune.pipeline.candidates import Candidates, judged
from robustprune.pipeline.early import StoppedEarly, Watch
from robustprune.pipeline.networks import networks
from robustprune.pipeline.run_folder import RunFolder, find_run, new_folder, read_json
from robustprune.pipeline.runner import run
from robustprune.pipeline.spaces import Space, parse_space
from robustprune.pipeline.trials import BEST, Trial, TuneResult, write_best
from robustprune.recipe import Recipe, load_recipe
from robustprune.seeding import derive
from robustprune.tracking import RUNS, Console, Tracker, check_store
from robustprune.version import __version__

SAMPLERS = ("tpe", "grid", "random")
"""Ways to choose what is tried next."""
_FIRST = 5  # trials that are drawn at random before the sampler learns from them
_MOST = 1000
_DATABASE = "study.db"  # Optuna's, in a study's folder


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
    runs: str | Path = RUNS,
    console: Console | None = None,
) -> TuneResult:
    """Search options of a recipe for the lowest loss on its validation split.

    The loss is that of the last epoch of each pruned network's last stage, the mean over the pruned
    networks (of the dense one, if there is no other). It is the recipe's objective's.

    Args:
        recipe: a file.
        over: ``key=space``s; see `robustprune.pipeline.spaces`.
        trials: how many; with ``grid`` how many points of each range.
        overrides: ``key=value`` changes for all trials, as ``--set`` takes them.
        sampler: one of `SAMPLERS`.
        out: the study's folder; a new one in ``runs/<recipe name>-tune/`` if absent.
        resume: go on with ``out``, or with the newest unfinished study of these arguments.
        max_steps: cut each stage after so many optimizer steps.
        runs: as for `run`; dense networks are shared there.
        console: where progress is shown.

    Raises:
        UsageError: the recipe or a space is at fault, or no trial came to its end.
        InterruptedRun: it was asked to stop; it can be gone on with.
    """
    runs, console = Path(runs), console or Console()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("tune works in one process: start it without a launcher.")
    if sampler not in SAMPLERS:
        raise UsageError(f"no sampler '{sampler}'. Choices: {', '.join(SAMPLERS)}.")
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
    study = _Study(
        Path(recipe), spaces, trials, tuple(overrides), sampler, max_steps, runs, console
    )
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
    runs: Path
    console: Console

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
        self.grid = [dict(zip(keys, one, strict=True)) for one in itertools.product(*points) if one]

    def finish(self, out: Path | None, *, resume: bool) -> TuneResult:
        """Do what is left of the study."""
        named = self.whole.model_copy(update={"name": f"{self.whole.name}-tune"})
        cut = {"max_steps": self.max_steps, "sampler": self.sampler}
        cut |= {f"over.{space.key}": space.text for space in self.spaces}
        cut |= {"points": self.count} if self.grid else {}
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
        self.trials: list[Trial] = []
        status = "FAILED"
        try:
            self._open()
            for number in range(max(self.total, len(self.done))):
                known = number < len(self.done)
                self.trials.append(_told(self.done[number]) if known else self._attempt(number))
                self._track(self.trials[-1], again=known)
                best = min(self.trials, key=lambda trial: trial.loss)
                if best is self.trials[-1] and math.isfinite(best.loss):
                    self._write(best)
            if not math.isfinite(best.loss):
                raise UsageError(
                    f"no trial came to its end. The last one: {best.end}. Try other spaces."
                )
            self._write(best)
            self.tracker.metrics(None, {"best/val_loss": best.loss, "best/trial": best.number})
            self.folder.finish()
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise InterruptedRun(self.folder.path.absolute()) from None
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = first_line(error.__cause__ or error)
            raise UsageError(
                f"{self.folder.path / _DATABASE} cannot be read or written: {reason}. Mend that, "
                "or delete it, and go on with --resume: trials that have ended are not run again."
            ) from None
        finally:
            self.tracker.finish(status)
            self.tracker.close()
        return TuneResult(self.folder.path, self.trials, self.tracker.where)

    def _write(self, best: Trial) -> None:
        file = self.folder.path / BEST
        write_best(file, best, of=len(self.trials), recipe=self.path, overrides=self.overrides)

    def _open(self) -> None:
        """Open Optuna's study, and see what of it is done."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=f"sqlite:///{self.folder.path.absolute() / _DATABASE}",
            study_name="tune",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # `early` decides
        )
        self.done = [trial for trial in self.study.get_trials() if trial.state.is_finished()]

    def _ask(self, number: int) -> optuna.Trial:
        """The next trial, or the one that was interrupted.

        Its draws follow from its number and from the trials before it: a study that is gone on
        with tries what it would have tried.
        """
        seed = derive(self.whole.seed, "tune", number) % 2**32
        samplers = optuna.samplers
        self.study.sampler = (
            samplers.TPESampler(seed=seed, n_startup_trials=_FIRST)
            if self.sampler == "tpe"
            else samplers.RandomSampler(seed=seed)
        )
        left = self.study.get_trials()[number:]
        if left and left[0].state == TrialState.RUNNING:
            return optuna.Trial(self.study, left[0]._trial_id)
        if (fixed := self._fixed(number)) and not left:
            numbers = {s.key: s.choices == () for s in self.spaces}
            self.study.enqueue_trial({k: float(v) if numbers[k] else v for k, v in fixed.items()})
        return self.study.ask()

    def _fixed(self, number: int) -> dict[str, str]:
        """Values that are not the sampler's to choose: a grid's, or at first the recipe's own."""
        if self.grid:
            return self.grid[number]
        return self.candidates.own if number == 0 else {}

    def _values(self, trial: optuna.Trial) -> dict[str, str]:
        """The values that a trial tries."""
        values, fixed = {}, self._fixed(trial.number)
        for space in self.spaces:
            key, low, high = space.key, space.low, space.high
            if space.choices:
                values[key] = str(trial.suggest_categorical(key, space.choices))
            elif space.kind == "int":
                values[key] = str(trial.suggest_int(key, int(low), int(high)))
            else:
                number = trial.suggest_float(key, low, high, log=space.kind == "log")
                values[key] = fixed.get(key) or space.shortened(number)
        return values

    def _attempt(self, number: int) -> Trial:
        """Make a trial, and tell Optuna and people how it ended."""
        began, asked = time.monotonic(), self._ask(number)
        values = self._values(asked)
        asked.set_user_attr("values", values)
        self._track(Trial(number, values, math.inf, ""))
        loss, end = self._outcome(asked, values)
        asked.set_user_attr("end", end)
        state = TrialState.PRUNED if loss is None else TrialState.COMPLETE
        self.study.tell(asked, loss, state)
        trial = _told(self.study.get_trials()[number])
        folder = self._folder(number)
        for path in (folder / "state").glob("*.pt"):  # of a run that was stopped or has diverged
            path.unlink()
        shown = f"val_loss {trial.loss:.4f}" if math.isfinite(trial.loss) else end
        seconds = f"{time.monotonic() - began:.1f} s"
        self.console.info(f"{self._title(number)}: {trial.shown}  {shown}  {seconds}")
        return trial

    def _outcome(self, trial: optuna.Trial, values: dict[str, str]) -> tuple[float | None, str]:
        """The loss of a trial, None if it is stopped, and how it ended."""
        for other in self.trials:
            if other.values == values:
                return other.value, f"as trial {other.number}"
        try:
            recipe = self.candidates.recipe(values)
        except UsageError as error:
            return math.inf, f"refused: {first_line(error)}"
        folder, name = self._folder(trial.number), Trial(trial.number, values).entry["name"]

        def report(loss: float, step: int, epochs: int) -> None:
            trial.report(loss, step)
            self.tracker.metrics(name, {"val_loss": loss}, step=epochs)

        stages = [stage for network in networks(recipe) for stage in network.stages]
        total = sum(stage.options.epochs - stage.start for stage in stages if stage.options)
        others = None if self.grid else [other.curve for other in self.trials]
        curve = self.study.get_trials()[trial.number].intermediate_values
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
                    watch=Watch(recipe, curve, others=others, report=report, bar=bar),
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


def _told(trial: FrozenTrial) -> Trial:
    """A trial that has ended, as Optuna keeps it."""
    stopped = trial.state == TrialState.PRUNED
    loss = math.inf if stopped or trial.value is None else trial.value
    known = trial.user_attrs
    return Trial(
        trial.number, known["values"], loss, known["end"], trial.intermediate_values, stopped
    )


def _last_loss(history: Path) -> float:
    """The validation loss of the last epoch of a network."""
    return float(read_json(history, [])[-1]["metrics"]["val_loss"])
