"""What every allocation is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustprune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor


class Allocation(Part):
    """Shares a network's density out among its layers."""

    def __call__(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        """The number of weights to keep in each layer.

        Args:
            scores: each prunable layer's scores, of its weight's shape.
            density: fraction of all of them to keep, in (0, 1].

        Returns:
            For each layer a number in [1, its number of weights].
        """
        raise TypeError(f"{type(self).__name__} must define __call__(scores, density)")


def round_count(density: float, total: int) -> int:
    """``round(density · total)``, at least one and at most ``total``; halves go to the even one."""
    return min(total, max(1, round(density * total)))
