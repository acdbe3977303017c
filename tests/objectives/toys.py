"""Small networks, and a batch for them."""

import torch
from torch import nn

from robustprune.testing.objectives import batch, modes, network

__all__ = ["batch", "linear", "modes", "network"]


def linear(classes: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
