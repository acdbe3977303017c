"""One threshold for the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustprune.masking.allocations import register
from robustprune.masking.allocations.base import Allocation, round_count

if TYPE_CHECKING:
    from torch import Tensor


@register("global")
class Global(Allocation):
    """One threshold for the whole network: the largest scores anywhere are kept.

    While scores are learned, the layers' shares move with them. Each layer keeps at least one
    weight; what that adds is taken from the layers that keep most, so the total is exact.
    """

    def __call__(self, scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
        """Each layer's share of the ``round(density · N)`` largest |score| of all N."""
        import torch

        from robustprune.masking.topk import keep_largest

        sizes = [score.numel() for score in scores.values()]
        kept = max(round_count(density, sum(sizes)), len(sizes))
        everything = torch.cat([score.detach().reshape(-1).abs() for score in scores.values()])
        shares = [int(part.sum()) for part in torch.split(keep_largest(everything, kept), sizes)]
        counts = [max(1, share) for share in shares]
        for _ in range(sum(counts) - kept):
            counts[counts.index(max(counts))] -= 1
        return dict(zip(scores, counts, strict=True))
