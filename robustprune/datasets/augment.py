"""Augmentation of small images, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CropFlip:
    """The usual augmentation of 32×32 images: a random crop of the padded image, and a flip.

    Attributes:
        padding: black pixels added on each side before the crop; 0 for no crop.
        flip: whether to mirror each image, left to right, with probability one half.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augmented images of the same shape and type.

        Args:
            images: ``(n, c, h, w)``.
            draws: ``(n, 3)`` integers ≥ 0; they decide the crop's row, its column, and the flip.
        """
        if self.padding:
            offsets = draws[:, :2] % (2 * self.padding + 1)
            images = crop(images, offsets, padding=self.padding)
        if self.flip:
            mirrored = (draws[:, 2] % 2).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images


def crop(images: Tensor, offsets: Tensor, *, padding: int) -> Tensor:
    """Each image, padded with zeros, cut back to its size at its own offset.

    Args:
        images: ``(n, c, h, w)``.
        offsets: ``(n, 2)``, row and column of the cut in the padded image, in [0, 2·padding].
        padding: zeros added on each side; an offset of ``padding`` leaves an image as it was.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    which = torch.arange(len(images))
    return windows[which, :, offsets[:, 0], offsets[:, 1]]
