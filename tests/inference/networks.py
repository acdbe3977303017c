"""Networks with random masks and statistics, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.models import create_model
from robustprune.seeding import fork
from robustprune.unparametrize import plain_copy


class Call(nn.Module):
    """A network that is one function, whose attributes are given."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Block(nn.Module):
    """A residual block whose ReLUs work in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


def residual() -> nn.Sequential:
    """For images of 3x8x8."""
    stem = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(*stem, Block(8, 8, 1), Block(8, 16, 2), *end)


def prepared(model: nn.Module, density: float = 0.3) -> nn.Module:
    """A plain copy with other norms than the identity, and most weights zero."""
    model = plain_copy(model)
    with fork(7), torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight *= torch.rand_like(module.weight) < density
                module.weight /= density**0.5
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.1)
    return model


def created(name: str, density: float = 0.05) -> nn.Module:
    with fork(0):
        model = create_model(name, num_classes=10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    return prepared(model, density)


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the scale."""
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def gradient(network: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    logits = network(x)
    weights = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(3))
    (logits * weights).sum().backward()
    assert x.grad is not None
    return x.grad


def gradients_far(found: nn.Module, expected: nn.Module, x: Tensor) -> float:
    """The median over images: gradients jump where a ReLU's input is zero to rounding."""
    pair = gradient(found, x), gradient(expected, x)
    difference = (pair[0] - pair[1]).flatten(1).abs().amax(1)
    shares = difference / pair[1].flatten(1).abs().amax(1)
    return float(shares.median())
