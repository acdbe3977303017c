"""Normalisation inside the model, so that attacks and bounds always see inputs in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """``(x - mean) / std``, channel by channel, for ``x`` of shape ``(n, channels, …)``.

    The statistics are options of the model and are rebuilt from them, so they are no part of the
    state dict: weights from elsewhere cannot change what the network's input means.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            buffer = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to the range the backbone was made for; same shape."""
        return (images - self.mean) / self.std


class Normalized(nn.Module):
    """A backbone behind its normalisation: images ``(n, c, h, w)`` in [0, 1] to logits."""

    def __init__(self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(n, classes)``."""
        logits: Tensor = self.backbone(self.normalize(images))
        return logits
