from collections import Counter

import torch
from torch import Tensor, nn

from robustprune.masking import MaskedModel, attach


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


def frozen(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def learning(density: float = 0.25) -> MaskedModel:
    """As in the prune phase: nothing but scores is trainable."""
    return attach(frozen(network()), density=density)


def counting(whole: MaskedModel) -> Counter[str]:
    calls: Counter[str] = Counter()
    for name, mask in whole.masks.items():
        mask.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


def gradients(whole: MaskedModel) -> list[Tensor | None]:
    return [p.grad for p in whole.score_parameters()]
