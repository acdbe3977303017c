"""Networks so small that the exact minimum of a margin over a box can be had."""

import torch
from torch import Tensor, nn

from robustprune.models.factory import Normalized
from tests.masks import pruned

SHAPE = (2, 3, 3)


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """With statistics and an affine map as training leaves them, negative scales included."""
    with torch.no_grad():
        layer.running_mean.normal_(0, 0.5)
        layer.running_var.uniform_(0.3, 2)
        layer.weight.normal_()
        layer.bias.normal_(0, 0.5)
    return layer


def mlp(classes: int) -> nn.Module:
    layers = (nn.Linear(18, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, classes))
    return nn.Sequential(nn.Flatten(), *layers)


def conv(classes: int) -> nn.Module:
    first = (nn.Conv2d(2, 2, 2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, classes))


def conv_norm(classes: int) -> nn.Module:
    first = (nn.Conv2d(2, 2, 2, bias=False), norm(nn.BatchNorm2d(2)), nn.ReLU())
    second = (nn.Conv2d(2, 2, 3, padding=1), norm(nn.BatchNorm2d(2)), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, *second, nn.Linear(8, classes))


def residual(classes: int) -> nn.Module:
    inner = (nn.Conv2d(2, 2, 3, padding=1), norm(nn.BatchNorm2d(2)), nn.ReLU())
    block = Residual(*inner, nn.Conv2d(2, 2, 3, padding=1, bias=False))
    stem = (nn.Conv2d(2, 2, 2), nn.ReLU(), block, nn.ReLU())
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, classes))


def without_biases(classes: int) -> nn.Module:
    inner = Residual(nn.Linear(6, 6, bias=False), nn.ReLU())
    first = (nn.Flatten(), nn.Linear(18, 6, bias=False), inner, nn.ReLU())
    return nn.Sequential(*first, nn.Linear(6, classes, bias=False))


def pooled(classes: int) -> nn.Module:
    first = (nn.Conv2d(2, 2, 2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 1))
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(12, classes))


def normalised(classes: int) -> nn.Module:
    return Normalized(residual(classes), mean=(0.3, 0.6), std=(0.5, 0.25))


def straight(classes: int) -> nn.Module:
    """No ReLU."""
    return nn.Sequential(
        nn.Conv2d(2, 2, 2), norm(nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(8, classes)
    )


BUILDERS = (mlp, conv, conv_norm, residual, without_biases, pooled, normalised, straight)
NETWORKS = {builder.__name__: builder for builder in BUILDERS}


@torch.no_grad()
def network(name: str, *, classes: int = 3, seed: int = 2) -> nn.Module:
    """In eval mode; parameters twice as large as torch draws them, or logits hardly move."""
    torch.manual_seed(seed)
    model = NETWORKS[name](classes).eval()
    for parameter in model.parameters():
        parameter.mul_(2)
    return model


def masked(name: str, *, classes: int = 3, seed: int = 2, density: float = 0.6):
    """The same network with some of its weights masked."""
    return pruned(network(name, classes=classes, seed=seed), density)


def images(n: int = 3, seed: int = 0) -> Tensor:
    """One from the interior, one of zeros and ones, a dark one, and again."""
    found = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    found[0::3] = 0.2 + 0.6 * found[0::3]
    found[1::3] = found[1::3].round()
    found[2::3] = 0.3 * found[2::3]
    return found


def labels(n: int = 3, classes: int = 3) -> Tensor:
    return torch.arange(n) % classes


def clean_margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``f(x)_y - f(x)_j`` of the images themselves, as `Bounds.margins` orders them."""
    with torch.no_grad():
        logits = model(x)
    others = torch.arange(logits.shape[1]) != y[:, None]
    return (logits.gather(1, y[:, None]) - logits)[others].view(len(x), -1)
