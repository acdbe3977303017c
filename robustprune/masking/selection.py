"""From importance to masks: first scores, what an entry covers, and exactly the largest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import init

from robustprune.components import Part
from robustprune.errors import DivergedError, UsageError

ScoreInit = Literal["scaled_magnitude", "magnitude", "kaiming", "xavier", "random"]
"""The names of the initialisations, as recipes write them."""
Shapes = Mapping[str, Sequence[int]]
"""Shapes of the weights, by name."""


def init_scores(weight: Tensor, name: ScoreInit, generator: torch.Generator) -> Tensor:
    """Scores for one layer, of the weight's shape, dtype, device and memory format.

    Args:
        weight: ``(out, in, …)`` of a convolution or a linear layer.
        name: ``scaled_magnitude`` is HYDRA's, ``sqrt(6 / fan_in) · w / max|w|``; ``magnitude`` is
            the weight itself. ``kaiming`` is uniform within ``sqrt(6 / ((1 + 5) · fan_in))``,
            torch's own for these layers, ``xavier`` within ``sqrt(6 / (fan_in + fan_out))``, and
            ``random`` in [0, 1) in every layer, so that every allocation treats layers alike.
        generator: what those three draw from, on the CPU.
    """
    # contiguous and on the CPU, so that random scores depend on neither layout nor device
    scores = weight.detach().cpu().contiguous().clone()
    if name == "scaled_magnitude":
        largest = scores.abs().max()
        if largest > 0:  # or it stays as it is: all zero
            scores = math.sqrt(6 / scores[0].numel()) * scores / largest
    elif name == "kaiming":
        init.kaiming_uniform_(scores, a=math.sqrt(5), generator=generator)
    elif name == "xavier":
        init.xavier_uniform_(scores, generator=generator)
    elif name == "random":
        scores.uniform_(generator=generator)
    return torch.empty_like(weight).copy_(scores)


def select(
    importance: Mapping[str, Tensor],
    density: float,
    *,
    allocation: Callable[[Mapping[str, Tensor], float, Shapes], dict[str, int]],
    structure: Structure,
) -> dict[str, Tensor]:
    """The masks that keep what is most important.

    Args:
        importance: of each weight, at least 0, by the weight's name; usually |score|.
        density: fraction of all entries to keep, in (0, 1].
        allocation: shares it out among the layers.
        structure: what one entry of a mask covers.

    Returns:
        Boolean tensors of the weights' shapes.

    Raises:
        UsageError: ``density`` is out of range.
        DivergedError: ``importance`` holds NaN.
    """
    if not 0 < density <= 1:
        raise UsageError(f"density {density} is not in (0, 1]. For 99 % sparsity write 0.01.")
    entries = {name: structure.reduce(tensor.detach()) for name, tensor in importance.items()}
    shapes = {name: tensor.shape for name, tensor in importance.items()}
    counts = allocation(entries, density, shapes)
    return {
        name: structure.expand(structure.select(entry, counts[name]), importance[name])
        for name, entry in entries.items()
    }


class Ends(NamedTuple):
    """The layers where a network begins and ends, by the names of prunable ones.

    Attributes:
        inputs: the layers that see the images.
        outputs: the layers that give the logits.
    """

    inputs: set[str]
    outputs: set[str]


class Structure(Part):
    """The weights that one entry of a mask covers. The defaults are those of single weights.

    A density is the share of the *entries* that each layer keeps.
    """

    def problems(self, densities: Sequence[float], allocation: Part) -> Iterator[str]:
        """Tell what keeps it from these densities or this allocation, with the remedy.

        Args:
            densities: a recipe's, in (0, 1].
            allocation: shares each of them out among the layers.
        """
        return iter(())

    def reduce(self, importance: Tensor) -> Tensor:
        """The importance of each entry: the sum of its weights'.

        Args:
            importance: of each weight, at least 0; ``(out, in, …)``, in any memory format.
        """
        return importance

    def select(self, entries: Tensor, keep: int) -> Tensor:
        """A boolean tensor of the entries' shape: exactly ``keep`` of them are true, the largest.

        Args:
            entries: the importance of each.
            keep: in [1, entries.numel()].
        """
        return keep_largest(entries, keep)

    def expand(self, entries: Tensor, weight: Tensor) -> Tensor:
        """Spread each entry's value over its weights; of the weight's shape.

        Args:
            entries: one value each: the mask, or numbers that are to be spread.
            weight: ``(out, in, …)``.
        """
        return entries

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """The layers that it cannot or must not touch.

        Args:
            layers: the prunable layers' weights by the layer's name, in the network's order.
            ends: those of the whole network, whatever a recipe excludes.
        """
        return set()

    def _undivided(self, layers: Mapping[str, Tensor]) -> set[str]:
        """The layers that are one entry: at least one is kept, so nothing of them can go."""
        return {name for name, w in layers.items() if self.reduce(w.detach()).numel() == 1}


def keep_largest(importance: Tensor, kept: int) -> Tensor:
    """A boolean mask of the ``kept`` largest entries of ``importance``.

    Args:
        importance: any shape, any memory format; usually |score|.
        kept: how many to keep, in [0, importance.numel()].

    Returns:
        A boolean tensor of the same shape with exactly ``kept`` true entries. Among equal
        entries the one with the lower index in row-major order wins.

    Raises:
        ValueError: ``kept`` is out of range.
        DivergedError: ``importance`` holds NaN.
    """
    # reshape copies what is not contiguous, so indices are row-major whatever the memory format
    flat = importance.detach().reshape(-1)
    if not 0 <= kept <= flat.numel():
        raise ValueError(f"cannot keep {kept} of {flat.numel()} entries")
    if kept == 0:
        return torch.zeros(importance.shape, dtype=torch.bool, device=importance.device)
    on_cpu = flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64)
    mask = _by_numpy(flat, kept) if on_cpu else _by_torch(flat, kept)
    return mask.view(importance.shape)


def _by_numpy(flat: Tensor, kept: int) -> Tensor:
    """On a CPU numpy's selection is many times as fast as torch.kthvalue or torch.topk.

    Whole numbers are selected faster than floats, and bits of floats without a sign are in the
    floats' order, NaN behind infinity.
    """
    values, place = flat.numpy(), flat.numel() - kept
    bits = values.view(np.int32 if values.dtype == np.float32 else np.int64)
    unsigned = bits.min() >= 0
    largest = np.partition(bits if unsigned else values, place)[place:].view(values.dtype)
    refuse_nan(bool(np.isnan(largest).any()))
    mask = values >= largest[0]
    surplus = np.count_nonzero(mask) - kept
    if surplus:  # of the entries that are equal to the smallest one kept, the last ones go
        mask[np.flatnonzero(values == largest[0])[-surplus:]] = False
    return torch.from_numpy(mask)


def _by_torch(flat: Tensor, kept: int) -> Tensor:
    refuse_nan(bool(torch.isnan(flat.max())))  # max hands NaN on
    threshold = torch.topk(flat, kept, sorted=False).values.min()
    mask, ties = flat > threshold, flat == threshold
    # as a running count, because the host would wait for a GPU to learn how many are missing
    return mask | (ties & (ties.cumsum(0) <= kept - mask.sum()))


def refuse_nan(diverged: bool) -> None:
    """Raise `DivergedError` if what is to be compared holds NaN."""
    if diverged:
        raise DivergedError(
            "scores hold NaN: they have diverged. Try a lower learning rate for them, in a new run."
        )


def summed(importance: Tensor, dimensions: Sequence[int]) -> Tensor:
    """Sums that depend on neither memory format nor half precision.

    Args:
        importance: any shape.
        dimensions: over which to sum.
    """
    # floats are added in the order of memory, so that channels-last sums differ in the last bits
    plain = importance.contiguous()
    wide = torch.promote_types(plain.dtype, torch.float32)
    return plain.sum(tuple(dimensions), dtype=wide)
