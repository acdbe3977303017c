"""Erdős–Rényi-kernel densities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustprune.masking.allocations import register
from robustprune.masking.allocations.base import Allocation, round_count

if TYPE_CHECKING:
    from torch import Tensor


@register("erk")
class ErdosRenyiKernel(Allocation):
    """Densities in proportion to ``sum(shape) / prod(shape)``: small layers keep more.

    Source: Evci et al. 2020, *Rigging the Lottery*, Sec. 3. A layer whose share would be above 1
    stays dense, and the others share what is left.
    """

    def __call__(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        """``min(n, round(c · sum(shape)))`` a layer, c such that the whole comes to ``density``."""
        sizes = {name: score.numel() for name, score in scores.items()}
        shares = {name: float(sum(score.shape)) for name, score in scores.items()}
        budget = density * sum(sizes.values())
        dense: set[str] = set()
        while True:
            rest = [name for name in sizes if name not in dense]
            free = budget - sum(sizes[name] for name in dense)
            scale = free / sum(shares[name] for name in rest) if rest else 0.0
            full = {name for name in rest if scale * shares[name] >= sizes[name]}
            if not full:
                break
            dense |= full
        return {
            name: size if name in dense else round_count(scale * shares[name] / size, size)
            for name, size in sizes.items()
        }
