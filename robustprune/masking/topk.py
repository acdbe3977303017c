"""The largest entries, selected by a threshold: exact in number, ties to the lower index."""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.errors import DivergedError


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
    import numpy as np

    values, place = flat.numpy(), flat.numel() - kept
    bits = values.view(np.int32 if values.dtype == np.float32 else np.int64)
    unsigned = bits.min() >= 0
    largest = np.partition(bits if unsigned else values, place)[place:].view(values.dtype)
    _check(bool(np.isnan(largest).any()))
    mask = values >= largest[0]
    surplus = np.count_nonzero(mask) - kept
    if surplus:  # of the entries that are equal to the smallest one kept, the last ones go
        mask[np.flatnonzero(values == largest[0])[-surplus:]] = False
    return torch.from_numpy(mask)


def _by_torch(flat: Tensor, kept: int) -> Tensor:
    _check(bool(torch.isnan(flat.max())))  # max hands NaN on
    threshold = torch.topk(flat, kept, sorted=False).values.min()
    mask = flat > threshold
    missing = kept - int(mask.sum())
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[:missing]] = True
    return mask


def _check(diverged: bool) -> None:
    if diverged:
        raise DivergedError(
            "scores hold NaN: they have diverged. Try a lower learning rate for them, in a new run."
        )
