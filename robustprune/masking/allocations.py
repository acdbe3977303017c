"""Allocations: how a network-wide density becomes a number of kept entries per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from robustprune.components import Part
from robustprune.errors import UsageError
from robustprune.masking.selection import Shapes, keep_largest
from robustprune.registry import Registry

__all__ = ["Allocation", "Shapes", "create", "get", "names", "register", "round_count", "share_out"]


class Allocation(Part):
    """Shares a network's density out among its layers: `shares`, raised to a floor.

    A subclass defines `shares`; or ``__call__`` alone, and then has no floor but its own.
    """

    minimum: int = Field(0, ge=0)
    """Entries that a layer keeps at least for each of its filters, on average: at 4, a layer of 16
    filters keeps 64 or more (all of it, if it has fewer), however small the density. Which filters
    have them is up to their importance. Where an entry is more than a weight, rows of entries stand
    for filters. 0: a layer keeps at least one."""

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """The number of entries to keep in each layer, without a floor; see ``__call__``.

        Returns:
            For each layer a number in [0, its number of entries].
        """
        raise TypeError(f"{type(self).__name__} must define shares(entries, density, shapes)")

    def __call__(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes | None = None
    ) -> dict[str, int]:
        """The number of entries to keep in each layer.

        Layers below the floor are raised to it, and what that adds is taken from the layers that
        keep most, so that the total stays what it was.

        Args:
            entries: the importance of each entry of each prunable layer's mask, at least 0; of
                the weight's shape where an entry is a weight. Layers come in the network's order.
                See `Structure`.
            density: fraction of all entries to keep, in (0, 1].
            shapes: of the layers' weights; those of the entries if absent.

        Returns:
            For each layer a number in [1, its number of entries].

        Raises:
            UsageError: ``minimum`` asks for more than the density leaves.
        """
        shapes = shapes or {name: entry.shape for name, entry in entries.items()}
        counts = self.shares(entries, density, shapes)
        floors = list(self.floors(entries).values())
        total = max(sum(counts.values()), len(counts))
        if sum(floors) > total:
            enough = math.ceil(1e4 * sum(floors) / _total(entries)) / 1e4
            raise UsageError(
                f"allocation '{self.registered_name}': minimum {self.minimum} keeps {sum(floors)} "
                f"entries, and density {density:g} leaves {total} of {_total(entries)}. Use a "
                f"lower minimum, or a density of {enough:g} or more."
            )
        return dict(zip(counts, raised(list(counts.values()), floors, total), strict=True))

    def floors(self, entries: Mapping[str, Tensor]) -> dict[str, int]:
        """The number of entries that each layer keeps at least; see `minimum`."""
        return {
            name: min(entry.numel(), max(1, self.minimum * len(entry)))
            for name, entry in entries.items()
        }


def _total(entries: Mapping[str, Tensor]) -> int:
    return sum(entry.numel() for entry in entries.values())


def raised(counts: Sequence[int], floors: Sequence[int], total: int) -> list[int]:
    """Counts that are nowhere below their floors, and come to ``total``.

    What is too much is taken from the largest counts: they are cut to one level, and of those at
    that level the first ones are one smaller.

    Args:
        counts: for each layer.
        floors: for each layer; their sum is at most ``total``.
        total: at most the sum of the raised counts.
    """

    def cut(level: int) -> list[int]:
        return [max(floor, min(count, level)) for count, floor in zip(counts, floors, strict=True)]

    if sum(counts) == total and all(c >= f for c, f in zip(counts, floors, strict=True)):
        return list(counts)
    low, level = 0, max(counts)  # the lowest level that leaves enough
    while low < level:
        middle = (low + level) // 2
        low, level = (low, middle) if sum(cut(middle)) >= total else (middle + 1, level)
    kept = cut(level)
    for place in [n for n, (k, floor) in enumerate(zip(kept, floors, strict=True)) if k > floor]:
        if sum(kept) > total and kept[place] == level:
            kept[place] -= 1
    return kept


def apportioned(exact: Sequence[float], total: int) -> list[int]:
    """Whole numbers that come to ``total``: each rounded down, or up where most was lost."""
    counts = [math.floor(number) for number in exact]
    order = sorted(range(len(exact)), key=lambda place: counts[place] - exact[place])
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    return counts


def round_count(density: float, total: int) -> int:
    """``round(density · total)``, at least one and at most ``total``; halves go to the even one."""
    return min(total, max(1, round(density * total)))


def share_out(shares: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Numbers in proportion to ``shares``, which come to ``total`` exactly.

    Where proportion would give a layer less than one entry or more than it has, it gets one or all,
    and the others share what is left. Fractions are rounded down, and what that leaves goes to the
    largest of them.

    Args:
        shares: of each layer, above 0, on any scale.
        sizes: number of entries of each layer.
        total: at least the number of layers, at most the number of all entries.
    """

    def scaled(factor: float) -> dict[str, float]:
        return {name: min(max(factor * share, 1.0), sizes[name]) for name, share in shares.items()}

    low, high = 0.0, max(sizes[name] / share for name, share in shares.items())
    for _ in range(100):  # halved until the two are neighbours
        middle = (low + high) / 2
        low, high = (low, middle) if sum(scaled(middle).values()) >= total else (middle, high)
    exact = scaled(high)
    counts = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])
    growing = [name for name in order if counts[name] < sizes[name]]
    for name in growing[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


registry: Registry[Allocation] = Registry("allocations", base=Allocation, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


@register("uniform")
class Uniform(Allocation):
    """The same density in every layer: what HYDRA does."""

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """``round(density · n)`` of each layer's n entries, at least one."""
        return {name: round_count(density, entry.numel()) for name, entry in entries.items()}


@register("uniform_plus")
class UniformPlus(Allocation):
    """Uniform but at the ends: the first convolution dense, a fifth of the last layer or more.

    The other layers share what is left, at one density. Source: Gale, Elsen, Hooker 2019, *The
    State of Sparsity in Deep Neural Networks*, as LAMP's experiments have it (Unif+). The first
    layer counts as such only if it is a convolution; in a network without any, where it may hold
    most weights, its density is that of the others. First and last are of the layers with a mask:
    those that a pruner excludes, or its structure leaves dense, do not count.
    """

    first: float = Field(1.0, gt=0, le=1)
    """Least density of the first layer, if that is a convolution."""
    last: float = Field(0.2, gt=0, le=1)
    """Least density of the last layer."""

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """The ends' densities where they are higher, and one for all others.

        Raises:
            UsageError: the ends alone take more than there is.
        """
        sizes = {name: entry.numel() for name, entry in entries.items()}
        total, layers = round_count(density, sum(sizes.values())), list(sizes)
        first, last = layers[0], layers[-1]
        least = {last: self.last}
        if len(shapes[first]) > 2:
            least[first] = max(self.first, least.get(first, 0.0))
        fixed: dict[str, int] = {}
        for name in sorted(least, key=lambda name: -least[name]):
            free = (total - sum(fixed.values())) / sum(
                n for k, n in sizes.items() if k not in fixed
            )
            if free < least[name]:
                fixed[name] = round_count(least[name], sizes[name])
        others = [name for name in sizes if name not in fixed]
        left = total - sum(fixed.values())
        if left < len(others):
            raise UsageError(
                f"allocation 'uniform_plus': the first convolution and the last layer keep "
                f"{sum(fixed.values())} entries, and density {density:g} leaves {total} of "
                f"{sum(sizes.values())}. Ask for a higher density, lower 'first' or 'last', or use "
                "allocation: uniform."
            )
        share = left / sum(sizes[name] for name in others) if others else 0.0
        shared = apportioned([share * sizes[name] for name in others], left)
        counts = fixed | dict(zip(others, shared, strict=True))
        return {name: counts[name] for name in sizes}


@register("global")
class Global(Allocation):
    """One threshold for the whole network: the most important entries anywhere are kept.

    While scores are learned, the layers' shares move with them. Each layer keeps at least one
    entry; what that adds is taken from the layers that keep most, so the total is exact. Entries
    of many weights, whose importance is a sum, favour the layers where they are large.
    """

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """Each layer's share of the ``round(density · N)`` most important of all N entries."""
        sizes = [entry.numel() for entry in entries.values()]
        ranked = torch.cat([self.ranked(entry.detach().reshape(-1)) for entry in entries.values()])
        kept = torch.split(keep_largest(ranked, round_count(density, sum(sizes))), sizes)
        return {name: int(part.sum()) for name, part in zip(entries, kept, strict=True)}

    def ranked(self, importance: Tensor) -> Tensor:
        """The numbers by which one layer's entries compete with others', in any order.

        Args:
            importance: of the layer's entries, ``(n,)``; below 0 where they are to go first.
        """
        return importance


@register("lamp")
class Lamp(Global):
    """One threshold for magnitudes that are made comparable: those of each layer by the larger.

    An entry's number is ``w² / Σ w_v²`` over the entries v of its layer that are at least as large,
    itself included: the square error that pruning adds, at the moment when all smaller ones are
    gone. The largest of each layer has 1, so that no layer is emptied. As in the source, of equal
    entries one counts as the larger.

    Source: Lee et al. 2021, *Layer-adaptive sparsity for the magnitude-based pruning*.
    """

    def ranked(self, importance: Tensor) -> Tensor:
        """``w² / Σ w_v²``, from the largest w to the smallest."""
        squares = importance.double().clamp_min(0).square().sort(descending=True).values
        return squares / squares.cumsum(0).clamp_min(torch.finfo(squares.dtype).tiny)


@register("erk")
class ErdosRenyiKernel(Allocation):
    """Densities in proportion to ``sum(shape) / prod(shape)``: small layers keep more.

    Source: Evci et al. 2020, *Rigging the Lottery*, Sec. 3. A layer whose share would be above 1
    stays dense, and the others share what is left. The shape is the weight's, whatever its entries
    are.
    """

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """``min(n, round(c · n · sum(shape) / prod(shape)))`` of each layer's n entries.

        c is such that the whole comes to ``density``.
        """
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


@register("igq")
class InverseQuota(Allocation):
    """Densities ``1 / (f·n + 1)``: the larger a layer, the sparser; FlyingBird's (IGQ).

    f is one number for all layers, such that the whole comes to the density. At low densities all
    layers keep nearly as many entries, 1/f, so that small layers stay dense longest.

    Source: Chen et al. 2022, arXiv 2202.09844, whose code stops the search for f within one weight
    of the total, and rounds what it prunes down; here the total is exact.
    """

    def shares(
        self, entries: Mapping[str, Tensor], density: float, shapes: Shapes
    ) -> dict[str, int]:
        """``n / (f·n + 1)`` of each layer's n entries, rounded so that the total is exact."""
        sizes = [entry.numel() for entry in entries.values()]
        total = round_count(density, sum(sizes))
        low, high = 0.0, len(sizes) / total  # as n / (f·n + 1) < 1 / f
        for _ in range(200):
            f = (low + high) / 2
            low, high = (f, high) if sum(n / (f * n + 1) for n in sizes) > total else (low, f)
        counts = apportioned([n / (high * n + 1) for n in sizes], total)
        return dict(zip(entries, counts, strict=True))
