from collections import Counter

import torch
from torch import Tensor, nn

from robustprune.masking import MaskedModel
from tests import masks


def network() -> nn.Sequential:
    """Two layers of 36 and 36 weights, with norm layers and biases."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * 6, 3),
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, 2, 2, 3, generator=generator), torch.arange(5) % 3


def pruned(density: float = 0.25) -> MaskedModel:
    return masks.pruned(network(), density)


def learning(density: float = 0.25) -> MaskedModel:
    return masks.learning(network(), density)


def counting(masked: MaskedModel) -> Counter[str]:
    calls: Counter[str] = Counter()
    for name in masked.masks:
        layer = masked.model.get_submodule(name.removesuffix(".weight"))
        mask = layer.parametrizations.weight[-1]
        mask.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


def gradients(masked: MaskedModel) -> list[Tensor | None]:
    return [score.grad for score in masked.scores.values()]


class Factor(nn.Module):
    """Multiplies a weight by numbers that are trained, all 2 at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full_like(weight, 2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor
