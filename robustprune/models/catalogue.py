"""Our own backbones by name, known without importing torch or timm."""

from __future__ import annotations

from typing import NamedTuple


class Backbone(NamedTuple):
    """What is known about a backbone before it is built.

    Attributes:
        module: the module of `robustprune.models` that registers it with timm when imported.
        summary: one line for lists.
        sized: whether its layers depend on the input size, so that it takes ``image_size``.
        smallest: height and width below which no image can be.
    """

    module: str
    summary: str
    sized: bool = False
    smallest: int = 1


BACKBONES = {
    "cnn_small": Backbone("cnn", "2 convolutions and 2 linear layers, 0.2 M weights", True, 4),
    "cnn_small_bn": Backbone("cnn", "cnn_small with BatchNorm after each convolution", True, 4),
    "cnn_large": Backbone("cnn", "4 convolutions and 3 linear layers, 2.5 M weights", True, 4),
    "cnn_digits": Backbone("cnn", "for 1x8x8 digits, 29 k weights, trains in seconds", True, 1),
    "vgg16_bn_cifar": Backbone(
        "vgg", "VGG16 with BatchNorm for 32x32 images, 15.3 M weights", smallest=16
    ),
    "wrn_28_4": Backbone("wide_resnet", "WideResNet 28 layers deep, width 4, 5.8 M weights"),
    "wrn_28_10": Backbone("wide_resnet", "WideResNet 28 layers deep, width 10, 36.5 M weights"),
    "resnet18_cifar": Backbone("resnet", "ResNet-18 for 32x32 images, 11.2 M weights"),
}
"""Our backbones; every other name is timm's or the user's own, registered with timm."""


def backbones() -> list[str]:
    """The names of our own backbones, sorted. Every model of timm can be created too."""
    return sorted(BACKBONES)
