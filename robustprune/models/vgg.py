"""VGG16 for 32x32 images, as the paper has it: four max-pools, three linear layers."""

from __future__ import annotations

from timm.models import register_model
from torch import Tensor, nn

from robustprune.models.layers import initialise, without_weights

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Filters and number of convolutions between two max-pools; nothing follows the last stage."""


class VGG(nn.Module):
    """Simonyan and Zisserman (2015), configuration D, with BatchNorm; ``(n, c, h, w)`` to logits.

    Parameter names are torchvision's (``features.0.weight``, ``classifier.4.bias``).
    """

    def __init__(self, *, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.features = _features(in_chans)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 2 * 2, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(n, classes)``."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _features(in_chans: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = in_chans
    for stage, (filters, depth) in enumerate(STAGES):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(depth):
            conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.ReLU()]
            channels = filters
    return nn.Sequential(*layers)


@register_model
@without_weights
def vgg16_bn_cifar(*, num_classes: int = 10, in_chans: int = 3) -> VGG:
    """The paper's VGG16: 15.3 M prunable weights; images of at least 16x16."""
    return VGG(num_classes=num_classes, in_chans=in_chans)
