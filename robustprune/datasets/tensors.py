"""From whatever a file holds to checked tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from robustprune.errors import UsageError
from robustprune.types import Images


def checked(
    data: Any, labels: Any, *, channels: int, size: int, num_classes: int, where: str
) -> Images:
    """Images and labels as tensors, once it is sure that they are what the dataset says.

    Args:
        data: uint8, ``(n, c, h, w)``, ``(n, h, w, c)``, or ``(n, h, w)`` if grey.
        labels: ``(n,)`` whole numbers.
        channels: the number of channels there must be.
        size: the height and width there must be.
        num_classes: labels must be below it.
        where: the file, for the message.

    Returns:
        uint8 images ``(n, c, h, w)``, contiguous, and int64 labels.

    Raises:
        UsageError: a wrong shape, type, count or label.
    """
    pixels, classes = np.asarray(data), np.asarray(labels)
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[:, None]
    if pixels.shape[1:] == (size, size, channels) and channels != size:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (channels, size, size):
        raise UsageError(
            f"{where}: expected uint8 images of {channels}×{size}×{size} (channels, height, "
            f"width), found {pixels.dtype} of shape {pixels.shape}.{_remedy(pixels.dtype)}"
        )
    if len(pixels) and pixels.max() == 1:
        raise UsageError(
            f"{where}: no pixel is above 1: images of 0 … 255 were expected. Multiply them by 255."
        )
    _check_labels(classes, count=len(pixels), num_classes=num_classes, where=where)
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(classes.astype(np.int64))
    )


def _remedy(dtype: Any) -> str:
    """How images of that type are made what they must be."""
    if dtype.kind == "f":
        return " If they are in [0, 1], write (255 * images).round() as uint8."
    if dtype.kind in "iu" and dtype != np.uint8:
        return " Scale them to 0 … 255, and write uint8."
    return ""


def _check_labels(classes: Any, *, count: int, num_classes: int, where: str) -> None:
    if not count:
        raise UsageError(f"{where}: it holds no images.")
    if classes.shape != (count,) or classes.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: expected {count} whole-numbered labels, one an image, found "
            f"{classes.dtype} of shape {classes.shape}."
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise UsageError(
            f"{where}: labels must be in 0 … {num_classes - 1}, found {low} … {high}. "
            "Is this another dataset?"
        )
