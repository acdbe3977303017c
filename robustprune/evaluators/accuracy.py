"""From what became of each image to the numbers in ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustprune.types import Interval

if TYPE_CHECKING:
    from torch import Tensor

    from robustprune.evaluators.base import PerImage


def interval(correct: int, n: int) -> Interval:
    """The 95 % Wilson score interval of a fraction.

    Args:
        correct: number of successes, at most ``n``.
        n: number of images, at least 1.
    """
    from scipy.stats import binomtest  # type: ignore[attr-defined]

    low, high = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return Interval(float(low), float(high))


def summarise(images: PerImage) -> dict[str, float | int | list[float]]:
    """What became of all images, as metrics.

    A boolean entry ``x`` gives the fraction ``x``, the number of images ``x_n`` and its 95 %
    interval ``x_interval`` as ``[low, high]``. A floating one gives its median over the finite
    entries and their number, and nothing at all if none is finite: JSON knows no NaN. An integer
    one is for the table of images only.

    Args:
        images: tensors of one length by name, as an evaluator's `judge` gives them for a batch.
    """
    import torch

    metrics: dict[str, float | int | list[float]] = {}
    for name, values in images.items():
        if values.dtype == torch.bool:
            metrics |= _fraction(name, values)
        elif values.is_floating_point() and values.isfinite().any():
            finite = values[values.isfinite()].double()
            metrics |= {name: finite.quantile(0.5).item(), f"{name}_n": len(finite)}
    return metrics


def measured(networks: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The metrics of some networks in the order they were measured, and which are accuracies.

    A metric has its number of images beside it, an accuracy an interval too.
    """
    names = dict.fromkeys(name for metrics in networks for name in metrics)
    return {name: f"{name}_interval" in names for name in names if f"{name}_n" in names}


def _fraction(name: str, values: Tensor) -> dict[str, float | int | list[float]]:
    correct, n = int(values.sum()), len(values)
    return {name: correct / n, f"{name}_n": n, f"{name}_interval": list(interval(correct, n))}
