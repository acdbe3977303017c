"""Numbers in ``results.json``, made of the results of single images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from robustprune.types import Interval

PerImage = dict[str, Tensor]
"""Results of the images of a batch: tensors of one length, by name."""

Metrics = dict[str, float | int | list[float]]

_Z = NormalDist().inv_cdf(0.975)


def interval(correct: int, n: int) -> Interval:
    """The 95 % Wilson score interval of a fraction.

    Args:
        correct: number of successes, at most ``n``.
        n: number of images, at least 1.
    """
    p = correct / n
    centre = p + _Z**2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    low, high = ((centre + side) / (1 + _Z**2 / n) for side in (-half, half))
    return Interval(low if correct else 0.0, high if correct < n else 1.0)


def summarise(images: PerImage) -> Metrics:
    """Metrics from the results of all images.

    A boolean entry ``x`` gives the fraction ``x``, the number of images ``x_n`` and its 95 %
    interval ``x_interval`` as ``[low, high]``. A floating one gives its median over the finite
    entries and their number, and nothing at all if none is finite: JSON knows no NaN. An integer
    one is for the table of images only.
    """
    metrics: Metrics = {}
    for name, values in images.items():
        if values.dtype == torch.bool:
            correct, n = int(values.sum()), len(values)
            bounds = list(interval(correct, n))
            metrics |= {name: correct / n, f"{name}_n": n, f"{name}_interval": bounds}
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
