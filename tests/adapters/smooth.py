"""A classifier whose smoothed version is known in closed form."""

import torch
from torch import Tensor, nn

SHAPE = (1, 4, 4)


class Halfspace(nn.Module):
    """Class 1 where w·x > b, else class 0.

    Under noise N(0, σ²) the probability of class 1 is Φ((w·x − b)/(σ‖w‖)), so the true radius is
    |w·x − b| / ‖w‖ exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(16, generator=generator))
        self.b = nn.Parameter(torch.tensor(0.3))

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1) @ self.w - self.b
        return torch.stack([-value, value], 1)

    def at(self, distances: Tensor, seed: int = 0) -> Tensor:
        """Different images, each at a signed distance from the boundary."""
        generator = torch.Generator().manual_seed(seed)
        w, b = self.w.detach().double(), self.b.detach().double()
        x = torch.randn(len(distances), 16, generator=generator, dtype=torch.float64)
        x += ((b - x @ w) / (w @ w) + distances / w.norm())[:, None] * w
        return x.float().reshape(-1, *SHAPE)


def most_errors(n: int, alpha: float) -> int:
    """More errors of n, each of probability alpha, happen once in ten thousand."""
    from scipy.stats import binom

    return int(binom.ppf(1 - 1e-4, n, alpha))
