"""The small convolutional networks that verification works with, and one for the digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from timm.models import register_model
from torch import nn

from robustprune.errors import UsageError
from robustprune.models.layers import initialise, without_weights


class Conv(NamedTuple):
    """One convolution: how many filters, how large, how far apart; padded by ``padding``."""

    filters: int
    kernel: int
    stride: int = 1
    padding: int = 1

    def output_size(self, size: int) -> int:
        """Height of the output for an input of height ``size``."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


SMALL = (Conv(16, 4, stride=2), Conv(32, 4, stride=2))
LARGE = (Conv(32, 3), Conv(32, 4, stride=2), Conv(64, 3), Conv(64, 4, stride=2))
# A 5x5 kernel, because a uniform density of 0.01 leaves 3 weights of a 3x3 layer on one channel.
DIGITS = (Conv(32, 5, padding=2), Conv(64, 3, stride=2))


@register_model
@without_weights
def cnn_small(
    *, num_classes: int = 10, in_chans: int = 3, image_size: int | None = None
) -> nn.Sequential:
    """CNN-small of Wong and Kolter (2018): 214,760 prunable weights for CIFAR-10.

    The input is ``(n, in_chans, image_size, image_size)``; ``image_size`` is 28 for one channel
    and 32 otherwise, if not given. Parameter names are those of a plain `torch.nn.Sequential`.
    """
    size = _usual_size(in_chans) if image_size is None else image_size
    return _cnn(SMALL, (100, num_classes), in_chans=in_chans, image_size=size)


@register_model
@without_weights
def cnn_small_bn(
    *, num_classes: int = 10, in_chans: int = 3, image_size: int | None = None
) -> nn.Sequential:
    """`cnn_small` with BatchNorm after each convolution; the same prunable weights."""
    size = _usual_size(in_chans) if image_size is None else image_size
    return _cnn(SMALL, (100, num_classes), in_chans=in_chans, image_size=size, norm=True)


@register_model
@without_weights
def cnn_large(
    *, num_classes: int = 10, in_chans: int = 3, image_size: int | None = None
) -> nn.Sequential:
    """CNN-large of Wong and Kolter (2018): 2,465,632 prunable weights for CIFAR-10."""
    size = _usual_size(in_chans) if image_size is None else image_size
    return _cnn(LARGE, (512, 512, num_classes), in_chans=in_chans, image_size=size)


@register_model
@without_weights
def cnn_digits(
    *, num_classes: int = 10, in_chans: int = 1, image_size: int | None = None
) -> nn.Sequential:
    """For scikit-learn's 8x8 digits: 29,472 prunable weights. ``image_size`` is 8 if not given."""
    size = 8 if image_size is None else image_size
    return _cnn(DIGITS, (num_classes,), in_chans=in_chans, image_size=size)


def _usual_size(in_chans: int) -> int:
    """MNIST's size for grey images, CIFAR's for coloured ones."""
    return 28 if in_chans == 1 else 32


def _cnn(
    convs: Sequence[Conv],
    linears: Sequence[int],
    *,
    in_chans: int,
    image_size: int,
    norm: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, size = in_chans, image_size
    for conv in convs:
        layers.append(nn.Conv2d(channels, conv.filters, conv.kernel, conv.stride, conv.padding))
        layers += [nn.BatchNorm2d(conv.filters), nn.ReLU()] if norm else [nn.ReLU()]
        channels, size = conv.filters, conv.output_size(size)
    if size < 1:
        raise UsageError(f"image_size {image_size} is too small for this network.")
    layers.append(nn.Flatten(1))
    width = channels * size**2
    for i, outputs in enumerate(linears):
        layers += [nn.ReLU()] if i else []
        layers.append(nn.Linear(width, outputs))
        width = outputs
    return initialise(nn.Sequential(*layers))
