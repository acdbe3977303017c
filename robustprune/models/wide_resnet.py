"""WideResNet for 32x32 images, with the parameter names of RobustBench's checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from robustprune.models.layers import initialise, without_weights


class Block(nn.Module):
    """Two pre-activated 3x3 convolutions beside the identity or, where shapes change, a 1x1 one."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # The 1x1 convolution sees the activated input, the identity the raw one.
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis (2016), without dropout; ``(n, c, h, w)`` to logits.

    Args:
        depth: number of layers on the longest path, ``6 · blocks a stage + 4``.
        width: factor on the 16, 32 and 64 filters of the three stages.
    """

    def __init__(self, *, depth: int, width: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        blocks, filters = (depth - 4) // 6, (16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, filters[0], blocks=blocks, stride=1)
        self.block2 = _stage(filters[0], filters[1], blocks=blocks, stride=2)
        self.block3 = _stage(filters[1], filters[2], blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(filters[2])
        self.fc = nn.Linear(filters[2], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(n, classes)``."""
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(images))))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride=stride)
    rest = [Block(outputs, outputs) for _ in range(blocks - 1)]
    # The one child called 'layer' is there for the names: block1.layer.0.conv1.weight
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))


@register_model
@without_weights
def wrn_28_4(*, num_classes: int = 10, in_chans: int = 3) -> WideResNet:
    """WideResNet-28-4: 5.8 M prunable weights."""
    return WideResNet(depth=28, width=4, num_classes=num_classes, in_chans=in_chans)


@register_model
@without_weights
def wrn_28_10(*, num_classes: int = 10, in_chans: int = 3) -> WideResNet:
    """WideResNet-28-10: 36.5 M prunable weights."""
    return WideResNet(depth=28, width=10, num_classes=num_classes, in_chans=in_chans)
