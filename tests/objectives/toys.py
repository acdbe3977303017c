"""Small networks with everything that makes the mode matter: norm layers and dropout."""

import torch
from torch import Tensor, nn


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )


def linear(classes: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def batch(n: int = 6, shape: tuple[int, int, int] = (3, 6, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, *shape, generator=generator), torch.arange(n) % 5


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]
