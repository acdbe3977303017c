"""Our own backbones, which need no timm, and how weights are drawn for the first time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Backbone(NamedTuple):
    """A network of ours.

    Attributes:
        build: makes it, given ``num_classes``, ``in_chans`` and, if `sized`, ``image_size``.
        summary: one line for lists.
        sized: its layers depend on the input size.
        smallest: height and width below which no image can be.
    """

    build: Callable[..., nn.Module]
    summary: str
    sized: bool
    smallest: int


BACKBONES: dict[str, Backbone] = {}
"""Our backbones; every other name is timm's or the user's own, registered with timm."""


def initialise(network: Net) -> Net:
    """``network``, drawn anew from the global torch generator, which the caller forks.

    Convolutions are Kaiming normal over their outgoing connections (He et al. 2015, as in VGG,
    WideResNet and the paper's networks), linear layers keep PyTorch's Kaiming uniform, biases
    are 0, and norm layers start as the identity.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def backbone(
    summary: str, *, sized: bool = False, smallest: int = 1
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Put what builds a network into `BACKBONES`, under its own name."""

    def entered(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        BACKBONES[build.__name__] = Backbone(build, summary, sized, smallest)
        return build

    return entered


_SMALL = ((16, 4, 2, 1), (32, 4, 2, 1))
# 5x5, because a uniform density of 0.01 leaves 3 weights of a 3x3 layer on one channel
_DIGITS = ((32, 5, 1, 2), (64, 3, 2, 1))


def _cnn(
    convs: Sequence[tuple[int, int, int, int]],
    hidden: Sequence[int],
    norm: bool = False,
    /,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    image_size: int = 0,
) -> nn.Sequential:
    """Convolutions of these filters, kernel sizes, strides and paddings, then linear layers.

    Images are of MNIST's or CIFAR's size unless told.
    """
    layers: list[nn.Module] = []
    channels, size = in_chans, image_size or (28 if in_chans == 1 else 32)
    for filters, kernel, stride, padding in convs:
        layers.append(nn.Conv2d(channels, filters, kernel, stride, padding))
        layers += [nn.BatchNorm2d(filters), nn.ReLU()] if norm else [nn.ReLU()]
        channels, size = filters, (size + 2 * padding - kernel) // stride + 1
    layers.append(nn.Flatten(1))
    width = channels * size**2
    for outputs in hidden:
        layers += [nn.Linear(width, outputs), nn.ReLU()]
        width = outputs
    return initialise(nn.Sequential(*layers, nn.Linear(width, num_classes)))


@backbone("2 convolutions and 2 linear layers, 0.2 M weights", sized=True, smallest=4)
def cnn_small(**options: int) -> nn.Sequential:
    """CNN-small of Wong and Kolter (2018): 214,760 prunable weights for CIFAR-10.

    The input is ``(n, in_chans, image_size, image_size)``; ``image_size`` is 28 for one channel
    and 32 otherwise, if not given. Parameter names are those of a plain `torch.nn.Sequential`.
    """
    return _cnn(_SMALL, (100,), **options)


@backbone("cnn_small with BatchNorm after each convolution", sized=True, smallest=4)
def cnn_small_bn(**options: int) -> nn.Sequential:
    """`cnn_small` with BatchNorm after each convolution; the same prunable weights."""
    return _cnn(_SMALL, (100,), True, **options)


@backbone("4 convolutions and 3 linear layers, 2.5 M weights", sized=True, smallest=4)
def cnn_large(**options: int) -> nn.Sequential:
    """CNN-large of Wong and Kolter (2018): 2,465,632 prunable weights for CIFAR-10."""
    convs = ((32, 3, 1, 1), (32, 4, 2, 1), (64, 3, 1, 1), (64, 4, 2, 1))
    return _cnn(convs, (512, 512), **options)


@backbone("for 1x8x8 digits, 29 k weights, trains in seconds", sized=True)
def cnn_digits(*, in_chans: int = 1, image_size: int = 8, **options: int) -> nn.Sequential:
    """For scikit-learn's 8x8 digits: 29,472 prunable weights."""
    return _cnn(_DIGITS, (), in_chans=in_chans, image_size=image_size, **options)


@backbone("cnn_digits with BatchNorm after each convolution", sized=True)
def cnn_digits_bn(*, in_chans: int = 1, image_size: int = 8, **options: int) -> nn.Sequential:
    """`cnn_digits` with BatchNorm after each convolution; the same prunable weights."""
    return _cnn(_DIGITS, (), True, in_chans=in_chans, image_size=image_size, **options)


@backbone("VGG16 with BatchNorm for 32x32 images, 15.3 M weights", smallest=16)
def vgg16_bn_cifar(*, num_classes: int = 10, in_chans: int = 3) -> nn.Sequential:
    """The paper's VGG16: 15.3 M prunable weights; images of at least 16x16.

    Simonyan and Zisserman (2015), configuration D, with BatchNorm, four max-pools and three linear
    layers. Parameter names are torchvision's (``features.0.weight``, ``classifier.4.bias``).
    """
    layers: list[nn.Module] = []
    channels = in_chans
    for stage, (filters, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(depth):
            conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.ReLU()]
            channels = filters
    hidden = (nn.Linear(512 * 2 * 2, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    network = OrderedDict(
        features=nn.Sequential(*layers),
        pool=nn.AdaptiveAvgPool2d((2, 2)),
        flatten=nn.Flatten(1),
        classifier=nn.Sequential(*hidden, nn.Linear(256, num_classes)),
    )
    return initialise(nn.Sequential(network))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class WideBlock(nn.Module):
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


def _stage(
    block: type[BasicBlock | WideBlock], inputs: int, outputs: int, *, blocks: int, stride: int
) -> nn.Sequential:
    rest = (block(outputs, outputs) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, outputs, stride=stride), *rest)


@backbone("ResNet-8 for 32x32 images, 78,000 weights")
def resnet8_cifar(*, num_classes: int = 10, in_chans: int = 3) -> nn.Sequential:
    """ResNet-8 for CIFAR, three stages of one block: 78,000 prunable weights, for CPUs.

    The family of He et al. (2016), Sec. 4.2, with n = 1; shortcuts that change shapes are 1x1
    convolutions.
    """
    network = OrderedDict(
        conv1=nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
        layer1=_stage(BasicBlock, 16, 16, blocks=1, stride=1),
        layer2=_stage(BasicBlock, 16, 32, blocks=1, stride=2),
        layer3=_stage(BasicBlock, 32, 64, blocks=1, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        linear=nn.Linear(64, num_classes),
    )
    return initialise(nn.Sequential(network))


@backbone("ResNet-18 for 32x32 images, 11.2 M weights")
def resnet18_cifar(*, num_classes: int = 10, in_chans: int = 3) -> nn.Sequential:
    """ResNet-18 for CIFAR: 11.2 M prunable weights.

    He et al. (2016) with a 3x3 stem and no max-pool: four stages of two basic blocks, under the
    names that CIFAR code uses; initialised as our other backbones are.
    """
    network = OrderedDict(
        conv1=nn.Conv2d(in_chans, 64, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        layer1=_stage(BasicBlock, 64, 64, blocks=2, stride=1),
        layer2=_stage(BasicBlock, 64, 128, blocks=2, stride=2),
        layer3=_stage(BasicBlock, 128, 256, blocks=2, stride=2),
        layer4=_stage(BasicBlock, 256, 512, blocks=2, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        linear=nn.Linear(512, num_classes),
    )
    return initialise(nn.Sequential(network))


def _wide_resnet(
    depth: int, width: int, /, *, num_classes: int = 10, in_chans: int = 3
) -> nn.Sequential:
    """Zagoruyko and Komodakis (2016), without dropout; names are those of RobustBench.

    ``depth`` is the number of layers on the longest path, ``6 · blocks per stage + 4``; ``width``
    is a factor on the 16, 32 and 64 filters of the three stages.
    """

    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        blocks = _stage(WideBlock, inputs, outputs, blocks=(depth - 4) // 6, stride=stride)
        # The one child called 'layer' is there for the names: block1.layer.0.conv1.weight
        return nn.Sequential(OrderedDict(layer=blocks))

    network = OrderedDict(
        conv1=nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
        block1=stage(16, 16 * width, 1),
        block2=stage(16 * width, 32 * width, 2),
        block3=stage(32 * width, 64 * width, 2),
        bn1=nn.BatchNorm2d(64 * width),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        fc=nn.Linear(64 * width, num_classes),
    )
    return initialise(nn.Sequential(network))


@backbone("WideResNet 28 layers deep, width 4, 5.8 M weights")
def wrn_28_4(**options: int) -> nn.Sequential:
    """WideResNet-28-4: 5.8 M prunable weights."""
    return _wide_resnet(28, 4, **options)


@backbone("WideResNet 28 layers deep, width 10, 36.5 M weights")
def wrn_28_10(**options: int) -> nn.Sequential:
    """WideResNet-28-10: 36.5 M prunable weights."""
    return _wide_resnet(28, 10, **options)
