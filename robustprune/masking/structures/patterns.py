"""Blocks and n of every m: patterns that kernels for sparse products are made for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import Field

from robustprune.errors import UsageError
from robustprune.masking.allocations import Uniform
from robustprune.masking.selection import Ends, Structure, refuse_nan, summed
from robustprune.masking.structures import register

if TYPE_CHECKING:
    from torch import Tensor

    from robustprune.masking.allocations import Allocation


@register("block")
class Block(Structure):
    """Rectangles of the ``(out, in·kh·kw)`` matrix of a weight; the last ones are smaller."""

    rows: int = Field(4, ge=1)
    """Output filters that a block spans."""
    columns: int = Field(4, ge=1)
    """Columns of the matrix that a block spans: kernel positions first, then input channels."""

    def reduce(self, importance: Tensor) -> Tensor:
        """``(⌈out / rows⌉, ⌈in·kh·kw / columns⌉)``."""
        from torch.nn.functional import pad

        matrix = importance.flatten(1)
        down, right = (-size % block for size, block in zip(matrix.shape, self._size, strict=True))
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

    @property
    def _size(self) -> tuple[int, int]:
        return self.rows, self.columns


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

    def problems(self, densities: Sequence[float], allocation: Allocation) -> Iterator[str]:
        """Densities that are not n/m, and layers that differ in theirs."""
        wrong = [density for density in densities if not self._is_ours(density)]
        if wrong:
            yield self._refusal(", ".join(f"{density:g}" for density in wrong))
        if not isinstance(allocation, Uniform):
            yield (
                f"structure 'n_m' keeps {self.n} of every {self.m} weights in every layer, which "
                f"allocation '{allocation.registered_name}' does not. Use allocation: uniform."
            )

    def select(self, entries: Tensor, keep: int) -> Tensor:
        """The n largest of every m; ties to the lower channel.

        Raises:
            UsageError: ``keep`` is not n/m of them.
            DivergedError: ``entries`` holds NaN.
        """
        import torch

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

    def _is_ours(self, density: float) -> bool:
        return math.isclose(density, self.n / self.m, rel_tol=1e-9)

    def _refusal(self, density: str) -> str:
        ratio = f"{self.n}/{self.m}"
        return (
            f"structure 'n_m' keeps {self.n} of every {self.m} weights: its density is "
            f"{self.n / self.m:g}, not {density}. Ask for density {ratio}, or choose other n and m."
        )
