"""A number with its interval: over the images of one run, or over the seeds of several."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from robustprune.report.documents import Metrics


class Estimate(NamedTuple):
    """A metric of a network.

    Attributes:
        value: of the run, or the mean over runs.
        low: end of the 95 % interval; ``value`` itself if there is none.
        high: the other end.
        each: of every run that measured it.
        images: on how many images each, if it is known.
    """

    value: float
    low: float
    high: float
    each: tuple[float, ...]
    images: int | None

    @property
    def error(self) -> tuple[float, float]:
        """How far the interval reaches below and above the value."""
        return max(self.value - self.low, 0.0), max(self.high - self.value, 0.0)

    def percent(self) -> str:
        """``73.3 (66.0–80.5)``, in percent."""
        interval = f" ({100 * self.low:.1f}–{100 * self.high:.1f})" if self.low < self.high else ""
        return f"{100 * self.value:.1f}{interval}"


def estimate(found: Sequence[Mapping[str, float | list[float]]], metric: str) -> Estimate | None:
    """A metric over the runs of one recipe, or None if none has it.

    Args:
        found: the ``metrics`` of one network, of each run.
        metric: its name.
    """
    having = [metrics for metrics in found if isinstance(metrics.get(metric), int | float)]
    values = [_number(metrics, metric) for metrics in having]
    if not values:
        return None
    images = having[0].get(f"{metric}_n")
    count = int(images) if isinstance(images, int | float) else None
    interval = having[0].get(f"{metric}_interval")
    fraction = isinstance(interval, list) and len(interval) == 2
    if len(values) > 1:
        low, high = mean_interval(values, fraction=fraction)
        return Estimate(statistics.fmean(values), low, high, tuple(values), count)
    low, high = interval if fraction else (values[0], values[0])  # type: ignore[misc]
    return Estimate(values[0], low, high, tuple(values), count)


def mean_interval(values: Sequence[float], *, fraction: bool = True) -> tuple[float, float]:
    """The 95 % Student interval of the mean of at least two values, cut to [0, 1] for a fraction.

    It speaks of seeds: what another training would give on the same images.
    """
    from scipy.stats import t  # type: ignore[attr-defined]

    mean, n = statistics.fmean(values), len(values)
    reach = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5
    low, high = mean - reach, mean + reach
    return (max(low, 0.0), min(high, 1.0)) if fraction else (low, high)


def _number(metrics: Metrics | Mapping[str, float | list[float]], metric: str) -> float:
    value = metrics[metric]
    assert isinstance(value, int | float)
    return float(value)
