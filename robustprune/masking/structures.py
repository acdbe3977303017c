"""Structures: what one entry of a mask covers. Their base is in `selection`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pydantic
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from robustprune.components import Part
from robustprune.errors import UsageError
from robustprune.masking.allocations import Uniform
from robustprune.masking.selection import Ends, Structure, refuse_nan, summed
from robustprune.registry import Registry

__all__ = ["Ends", "Structure", "create", "get", "names", "register"]

registry: Registry[Structure] = Registry("structures", base=Structure, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


@register("weight")
class Weight(Structure):
    """Each weight on its own: unstructured pruning, as HYDRA's."""


class _Slice(Structure):
    """All weights that share an index along one dimension."""

    dimension: ClassVar[int]

    def reduce(self, importance: Tensor) -> Tensor:
        """``(size of the dimension,)``."""
        return summed(importance, [d for d in range(importance.ndim) if d != self.dimension])

    def expand(self, entries: Tensor, weight: Tensor) -> Tensor:
        """Each slice's value, everywhere in it."""
        shape = [-1 if d == self.dimension else 1 for d in range(weight.ndim)]
        return entries.view(shape).expand_as(weight).contiguous()


@register("filter")
class Filter(_Slice):
    """Output filters: what makes one output channel of a convolution, or one of a linear layer.

    Layers that give the logits stay dense, as each of their filters is a class. Norm layers and
    biases stay too, so that a filter that is pruned still emits a constant.
    """

    dimension: ClassVar[int] = 0

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """The outputs, and layers of one filter."""
        return (ends.outputs & layers.keys()) | self._undivided(layers)


@register("channel")
class Channel(_Slice):
    """Input channels: all that a layer computes with one channel, or one feature, of its input.

    In a grouped convolution it is the channel at one place within *every* group, as groups remain
    equally large. Layers that see the images stay dense, and so do depthwise convolutions, whose
    groups have one channel.
    """

    dimension: ClassVar[int] = 1

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """The inputs, and layers of one channel."""
        return (ends.inputs & layers.keys()) | self._undivided(layers)


@register("block")
class Block(Structure):
    """Rectangles of the ``(out, in·kh·kw)`` matrix of a weight; the last ones are smaller."""

    rows: int = Field(4, ge=1)
    """Output filters that a block spans."""
    columns: int = Field(4, ge=1)
    """Columns of the matrix that a block spans: kernel positions first, then input channels."""

    def reduce(self, importance: Tensor) -> Tensor:
        """``(⌈out / rows⌉, ⌈in·kh·kw / columns⌉)``."""
        matrix = importance.flatten(1)
        down, right = -matrix.shape[0] % self.rows, -matrix.shape[1] % self.columns
        blocks = pad(matrix, (0, right, 0, down))
        blocks = blocks.view(-1, self.rows, blocks.shape[1] // self.columns, self.columns)
        return summed(blocks, (1, 3))

    def expand(self, entries: Tensor, weight: Tensor) -> Tensor:
        """Each block's value, everywhere in it."""
        out, columns = weight.flatten(1).shape
        wide = entries.repeat_interleave(self.rows, 0)[:out]
        return wide.repeat_interleave(self.columns, 1)[:, :columns].reshape(weight.shape)

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """Layers of one block."""
        return self._undivided(layers)


@register("n_m")
class NOfM(Structure):
    """The n largest of every m weights that follow each other along the input channels.

    At each kernel position by itself. Its density is n/m in every layer. Layers whose input
    channels (those of one group) m does not divide stay dense.
    """

    n: int = Field(2, ge=1)
    """Weights kept of every m."""
    m: int = Field(4, ge=2)
    """Input channels in a row of which n are kept."""

    @pydantic.model_validator(mode="after")
    def _n_below_m(self) -> Any:
        if self.n >= self.m:
            raise ValueError(f"n must be below m: {self.n} of every {self.m} prunes nothing")
        return self

    def problems(self, densities: Sequence[float], allocation: Part) -> Iterator[str]:
        """Densities that are not n/m, and allocations whose layers may differ in theirs."""
        ours = self.n / self.m
        wrong = [density for density in densities if not math.isclose(density, ours)]
        if wrong:
            yield self._refusal(", ".join(f"{density:g}" for density in wrong))
        if not isinstance(allocation, Uniform):
            yield (
                f"structure 'n_m' keeps {self.n} of every {self.m} weights in every layer, which "
                f"allocation '{allocation.registered_name}' does not. Use allocation: uniform."
            )
        elif allocation.minimum:
            yield (
                f"structure 'n_m' keeps {self.n} of every {self.m} weights in every layer, and "
                f"minimum {allocation.minimum} may ask for others. Leave allocation.minimum out."
            )

    def select(self, entries: Tensor, keep: int) -> Tensor:
        """The n largest of every m; ties to the lower channel.

        Raises:
            UsageError: ``keep`` is not n/m of them.
            DivergedError: ``entries`` holds NaN.
        """
        if keep * self.m != entries.numel() * self.n:
            raise UsageError(self._refusal(f"{keep / entries.numel():.4g}"))
        refuse_nan(bool(torch.isnan(entries).any()))
        out, channels, *kernel = entries.shape
        groups = entries.reshape(out, channels // self.m, self.m, *kernel)
        places = [place.contiguous() for place in groups.unbind(2)]
        ranks = [torch.zeros_like(place, dtype=torch.int16) for place in places]
        for low, high in itertools.combinations(range(self.m), 2):  # many times as fast as to sort
            first = places[low] >= places[high]
            ranks[high] += first
            ranks[low] += ~first
        return torch.stack([rank < self.n for rank in ranks], dim=2).flatten(1, 2)

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """Layers whose input channels m does not divide."""
        return {name for name, weight in layers.items() if weight.shape[1] % self.m}

    def _refusal(self, density: str) -> str:
        ratio = f"{self.n}/{self.m}"
        return (
            f"structure 'n_m' keeps {self.n} of every {self.m} weights: its density is "
            f"{self.n / self.m:g}, not {density}. Ask for density {ratio}, or choose other n and m."
        )
