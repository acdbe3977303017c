"""Time sides that take turns in one process.

A machine that others use, too, changes its speed from minute to minute, so that seconds mean
little: ratios within one round mean more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Passes = Callable[[int], Sequence[float]]
"""Takes so many passes, one after another, and returns the seconds of each."""
Times = dict[str, list[float]]
"""Seconds of a pass of each side, in each round."""

_MOST = 1000  # passes of a turn
_REST = 0.01  # seconds for which idle threads of the side before may spin


def passes(call: Callable[[], object]) -> Passes:
    """Return passes that each call a function once."""

    def timed(count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return times

    return timed


def alternate(sides: Mapping[str, Passes], *, rounds: int, seconds: float) -> Times:
    """Let sides take turns.

    Args:
        sides: by name.
        rounds: turns of each side, after one that is not counted.
        seconds: how long a turn lasts, roughly; it has one pass at least.

    Returns:
        The median of each turn. Its first pass does not count, but where it is the only one: caches
        still hold what the side before needs.
    """
    counts = {}
    for name, side in sides.items():
        (once,) = side(1)
        if once < seconds:  # the first pass may be slower than all others
            (once,) = side(1)
        counts[name] = max(1, min(_MOST, round(seconds / once)))
    times: Times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            time.sleep(_REST)
            count = counts[name]
            found = side(1) if count == 1 else side(count + 1)[1:]
            times[name].append(statistics.median(found))
    return times


def ratio(times: Mapping[str, Sequence[float]], side: str, other: str) -> float:
    """Return how many times as long as another a side takes: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[side], times[other], strict=True))
