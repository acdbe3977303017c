"""A metric of a network over the seeds: mean, interval, deviation, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from scipy.stats import t  # type: ignore[attr-defined]

Spread = Literal["std", "interval", "none"]
"""What stands beside a mean: standard deviation over the seeds, 95 % interval, or nothing."""


class Estimate(NamedTuple):
    """A metric of a network."""

    value: float
    """Value of the run, or the mean over runs."""
    low: float
    """Lower end of the 95 % interval; ``value`` itself if there is none."""
    high: float
    each: tuple[float, ...]
    """Value of every run that measured it."""
    images: int | None
    """The number of images of each, if it is known."""

    def texts(self, *, fraction: bool, spread: Spread = "interval") -> tuple[str, str]:
        """Return the value and its spread, ``73.3`` and ``(66.0–80.5)``; a fraction in percent.

        The spread is empty where there is none: no interval, or no deviation of a single run.
        """
        form = (lambda x: f"{100 * x:.1f}") if fraction else plain
        if spread == "std" and len(self.each) > 1:
            return form(self.value), f"± {form(statistics.stdev(self.each))}"
        if spread == "interval" and self.low < self.high:
            return form(self.value), f"({form(self.low)}–{form(self.high)})"
        return form(self.value), ""


def plain(value: float) -> str:
    """Return a number for people: whole ones and large ones in full, others to four digits."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def estimate(found: Sequence[Mapping[str, float | list[float]]], metric: str) -> Estimate | None:
    """Return a metric over the runs of one recipe, of a network's ``metrics`` in each; or None."""
    having = [metrics for metrics in found if isinstance(metrics.get(metric), int | float)]
    values = [float(metrics[metric]) for metrics in having]  # type: ignore[arg-type]
    if not values:
        return None
    images, interval = having[0].get(f"{metric}_n"), having[0].get(f"{metric}_interval")
    count = int(images) if isinstance(images, int | float) else None
    low = high = values[0]
    if len(values) > 1:
        low, high = mean_interval(values, fraction=interval is not None)
    elif isinstance(interval, list) and len(interval) == 2:
        low, high = interval
    return Estimate(statistics.fmean(values), low, high, tuple(values), count)


def mean_interval(values: Sequence[float], *, fraction: bool = True) -> tuple[float, float]:
    """Return the 95 % Student interval of the mean of two or more values; a fraction's in [0, 1].

    It tells what another training would give on the same images.
    """
    mean, n = statistics.fmean(values), len(values)
    reach = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5
    low, high = mean - reach, mean + reach
    return (max(low, 0.0), min(high, 1.0)) if fraction else (low, high)
