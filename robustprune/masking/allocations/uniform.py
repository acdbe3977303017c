"""The same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustprune.masking.allocations import register
from robustprune.masking.allocations.base import Allocation, round_count

if TYPE_CHECKING:
    from torch import Tensor


@register("uniform")
class Uniform(Allocation):
    """The same density in every layer: what HYDRA does."""

    def __call__(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        """``round(density · n)`` of each layer's n weights, at least one."""
        return {name: round_count(density, score.numel()) for name, score in scores.items()}
