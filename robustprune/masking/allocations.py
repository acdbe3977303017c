"""Allocations: how a network-wide density becomes a number of kept entries per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from robustprune.components import Part
from robustprune.masking.selection import Shapes, keep_largest
from robustprune.registry import Registry

__all__ = ["Allocation", "Shapes", "create", "get", "names", "register", "round_count"]


class Allocation(Part):
    """Shares a network's density out among its layers."""

    def __call__(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes | None = None
    ) -> dict[str, int]:
        """The number of entries to keep in each layer.

        Args:
            entries: the importance of each entry of each prunable layer's mask, at least 0; of
                the weight's shape where an entry is a weight. See `Structure`.
            density: fraction of all entries to keep, in (0, 1].
            shapes: of the layers' weights; those of the entries if absent.

        Returns:
            For each layer a number in [1, its number of entries].
        """
        raise TypeError(f"{type(self).__name__} must define __call__(entries, density, shapes)")


def round_count(density: float, total: int) -> int:
    """``round(density · total)``, at least one and at most ``total``; halves go to the even one."""
    return min(total, max(1, round(density * total)))


registry: Registry[Allocation] = Registry("allocations", base=Allocation, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


@register("uniform")
class Uniform(Allocation):
    """The same density in every layer: what HYDRA does."""

    def __call__(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes | None = None
    ) -> dict[str, int]:
        """``round(density · n)`` of each layer's n entries, at least one."""
        return {name: round_count(density, entry.numel()) for name, entry in entries.items()}


@register("global")
class Global(Allocation):
    """One threshold for the whole network: the most important entries anywhere are kept.

    While scores are learned, the layers' shares move with them. Each layer keeps at least one
    entry; what that adds is taken from the layers that keep most, so the total is exact. Entries
    of many weights, whose importance is a sum, favour the layers where they are large.
    """

    def __call__(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes | None = None
    ) -> dict[str, int]:
        """Each layer's share of the ``round(density · N)`` most important of all N entries."""
        sizes = [score.numel() for score in entries.values()]
        kept = max(round_count(density, sum(sizes)), len(sizes))
        everything = torch.cat([score.detach().reshape(-1).abs() for score in entries.values()])
        shares = [int(part.sum()) for part in torch.split(keep_largest(everything, kept), sizes)]
        counts = [max(1, share) for share in shares]
        for _ in range(sum(counts) - kept):
            counts[counts.index(max(counts))] -= 1
        return dict(zip(entries, counts, strict=True))


@register("erk")
class ErdosRenyiKernel(Allocation):
    """Densities in proportion to ``sum(shape) / prod(shape)``: small layers keep more.

    Source: Evci et al. 2020, *Rigging the Lottery*, Sec. 3. A layer whose share would be above 1
    stays dense, and the others share what is left. The shape is the weight's, whatever its entries
    are.
    """

    def __call__(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes | None = None
    ) -> dict[str, int]:
        """``min(n, round(c · n · sum(shape) / prod(shape)))`` of each layer's n entries.

        c is such that the whole comes to ``density``.
        """
        shapes = shapes or {name: entry.shape for name, entry in entries.items()}
        sizes = {name: entry.numel() for name, entry in entries.items()}
        shares = {n: size * sum(shapes[n]) / math.prod(shapes[n]) for n, size in sizes.items()}
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
