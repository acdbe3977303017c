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
    if torch.isnan(flat.max()):  # max hands NaN on
        raise DivergedError(
            "scores hold NaN: they have diverged. Try a lower learning rate for them, in a new run."
        )
    threshold = _kth_largest(flat, kept)
    mask = flat > threshold
    missing = kept - int(mask.sum())
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[:missing]] = True
    return mask.view(importance.shape)


def _kth_largest(flat: Tensor, k: int) -> Tensor:
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        import numpy as np

        # on a CPU numpy's selection is several times as fast as torch.kthvalue or torch.topk
        place = flat.numel() - k
        return torch.as_tensor(np.partition(flat.numpy(), place)[place])
    return torch.topk(flat, k, sorted=False).values.min()
