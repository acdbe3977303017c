"""Optuna's study: what trials try, and how they ended. The only place that imports Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from robustprune.pipeline.spaces import Space
from robustprune.pipeline.trials import Trial
from robustprune.seeding import derive

SAMPLERS = ("tpe", "grid", "random")
"""Ways to choose what is tried next."""
FAULTS = (SQLAlchemyError, StorageInternalError)
"""Errors of a study's storage."""
_FIRST = 5  # trials that are drawn at random before the sampler learns from them


class Study:
    """A study in its storage, which several processes may open.

    Args:
        folder: the study's.
        storage: a database's URL, or a file for a journal; by default ``study.db`` in the folder.
        spaces: what is tried.
        sampler: one of `SAMPLERS`.
        seed: the recipe's.
        fixed: the values of a trial that are not the sampler's to choose, if there are any.
    """

    def __init__(
        self,
        folder: Path,
        *,
        storage: str | None,
        spaces: Sequence[Space],
        sampler: str,
        seed: int,
        fixed: Callable[[int], dict[str, str]],
    ) -> None:
        self._spaces, self._sampler, self._seed, self._fixed = spaces, sampler, seed, fixed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        store: Any = storage
        if storage is None:
            wait = {"connect_args": {"timeout": 60}}  # seconds for other jobs to let go of it
            file = folder.absolute() / "study.db"
            store = RDBStorage(f"sqlite:///{file}", engine_kwargs=wait)
        elif "://" not in storage:
            store = JournalStorage(JournalFileBackend(storage))
        self._study = optuna.create_study(
            storage=store,
            study_name=str(folder.absolute()) if storage else "tune",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # `early` decides
        )

    def ended(self) -> list[Trial]:
        """The trials that have ended."""
        return [_told(trial) for trial in self._study.get_trials() if trial.state.is_finished()]

    def told(self, number: int) -> Trial:
        """A trial as it is known so far."""
        return _told(self._study.get_trials()[number])

    def choose(self, number: int) -> dict[str, str]:
        """The values that the next trial is to try, or one that was interrupted has tried.

        Its draws follow from its number and from the trials before it: a study that is gone on
        with tries what it would have tried.
        """
        seed = derive(self._seed, "tune", number) % 2**32
        samplers = optuna.samplers
        self._study.sampler = (
            samplers.TPESampler(seed=seed, n_startup_trials=_FIRST, constant_liar=True)
            if self._sampler == "tpe"
            else samplers.RandomSampler(seed=seed)
        )
        left, fixed = self._study.get_trials()[number:], self._fixed(number)
        if left and left[0].state == TrialState.RUNNING:
            trial = self._running(number)
        else:
            if fixed and not left:
                numbers = {space.key: space.choices == () for space in self._spaces}
                typed = {key: float(v) if numbers[key] else v for key, v in fixed.items()}
                self._study.enqueue_trial(typed)
            trial = self._study.ask()
        values = self._values(trial, fixed)
        trial.set_user_attr("values", values)
        return values

    def report(self, number: int, loss: float, step: int) -> None:
        """Keep a loss of a trial's curve."""
        self._running(number).report(loss, step)

    def end(self, number: int, loss: float | None, end: str) -> None:
        """Keep how a trial ended; without a loss it was stopped."""
        trial = self._running(number)
        trial.set_user_attr("end", end)
        state = TrialState.PRUNED if loss is None else TrialState.COMPLETE
        self._study.tell(trial, loss, state)

    def _running(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._study.get_trials()[number]._trial_id)

    def _values(self, trial: optuna.Trial, fixed: dict[str, str]) -> dict[str, str]:
        values = {}
        for space in self._spaces:
            key, low, high = space.key, space.low, space.high
            if space.choices:
                values[key] = str(trial.suggest_categorical(key, space.choices))
            elif space.kind == "int":
                values[key] = str(trial.suggest_int(key, int(low), int(high)))
            else:
                number = trial.suggest_float(key, low, high, log=space.kind == "log")
                values[key] = fixed.get(key) or space.shortened(number)
        return values


def _told(trial: FrozenTrial) -> Trial:
    """A trial as Optuna keeps it."""
    stopped, known = trial.state == TrialState.PRUNED, trial.user_attrs
    loss = math.inf if stopped or trial.value is None else trial.value
    values, end = known.get("values", {}), known.get("end", "")
    return Trial(trial.number, values, loss, end, trial.intermediate_values, stopped)
