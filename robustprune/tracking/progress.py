"""The place of a whole run in its work, and the time that it has left, from what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Work(NamedTuple):
    """A part of a run: a stage of a network, or its judging by an evaluator.

    Attributes:
        network: the network's name.
        name: the stage's, or the evaluator's metric.
        units: optimizer steps, or images.
        pruner: the variant of it; stages of one name differ in speed among pruners.
        judges: true of an evaluator.
    """

    network: str
    name: str
    units: int
    pruner: str = ""
    judges: bool = False


class Whole:
    """All the work of a run, in its order, and the seconds that each kind of it has taken.

    Work that another has begun after is over, whatever was planned: stages end early, and networks
    are reused. Time is measured while a piece of work goes on, validation and saving included.

    Args:
        works: in the order in which they are done.
        clock: seconds that only grow.
    """

    def __init__(
        self, works: Sequence[Work], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._works, self._clock = works, clock
        self._at, self._done, self._since, self._counts = 0, 0, clock(), False
        self._spent: dict[tuple[bool, str, str], tuple[float, int]] = {}

    def begin(self, network: str, name: str, *, done: int = 0) -> None:
        """Begin a piece of work, or an epoch of it, of which ``done`` units had been done before.

        One that is not part of the run is not counted.
        """
        for at, work in enumerate(self._works[self._at :], start=self._at):
            if (work.network, work.name) == (network, name):
                if at != self._at or not self._done:
                    self._since = self._clock()
                self._at, self._done, self._counts = at, done, True
                return
        self._counts = False

    def advance(self, units: int) -> None:
        """Count units of the work that was begun last."""
        if not self._counts:
            return
        now = self._clock()
        self.learn(self._works[self._at], now - self._since, units)
        self._since, self._done = now, self._done + units

    def learn(self, work: Work, seconds: float, units: int) -> None:
        """Note how long some units of a kind of work have taken."""
        kind = (work.judges, work.name, work.pruner)
        before = self._spent.get(kind, (0.0, 0))
        self._spent[kind] = (before[0] + seconds, before[1] + units)

    def seconds(self, work: Work, units: int | None = None) -> float | None:
        """The time that work takes, or some units of it; None where nothing like it was measured.

        Where this kind was not, stages of that name of other pruners tell, or else all training.
        """
        kind = (work.judges, work.name, work.pruner)
        for like in (3, 2) if work.judges else (3, 2, 1):
            found = [spent for key, spent in self._spent.items() if key[:like] == kind[:like]]
            if measured := sum(count for _, count in found):
                rate = sum(spent for spent, _ in found) / measured
                return rate * (work.units if units is None else units)
        return None

    def line(self, *, left: bool = True) -> str:
        """``network 3 of 7 · 41 % · 12 min left``; ``over`` where some work was never measured."""
        names = list(dict.fromkeys(work.network for work in self._works))
        words = [f"network {names.index(self._works[self._at].network) + 1} of {len(names)}"]
        done, todo, certain = self._times()
        if certain and done + todo:
            share = 100 * done / (done + todo)
            words.append(f"{min(share, 99) if todo else share:.0f} %")
        if left and todo:
            words.append(f"{'' if certain else 'over '}{duration(todo)} left")
        return " · ".join(words)

    @property
    def share(self) -> float:
        """The share of the run's time that is over, as far as it can be foreseen."""
        done, todo, _ = self._times()
        return done / (done + todo) if done + todo else 0.0

    def _times(self) -> tuple[float, float, bool]:
        """Seconds of what is done and of what is left, and true if all could be foreseen."""
        now = self._works[self._at]
        over = [(work, work.units) for work in self._works[: self._at]] + [(now, self._done)]
        ahead = [(now, max(now.units - self._done, 0))]
        ahead += [(work, work.units) for work in self._works[self._at + 1 :]]
        done, todo = ([self.seconds(*one) for one in part] for part in (over, ahead))
        return sum(filter(None, done)), sum(filter(None, todo)), None not in (*done, *todo)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``2 h 10 min`` or ``3 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minute} min" if minute else f"{hours} h"
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h" if hour else f"{days} d"
