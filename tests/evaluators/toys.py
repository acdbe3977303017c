"""Networks and batches small enough to know the answer."""

import torch
from torch import Tensor, nn


def linear(classes: int, shape: tuple[int, int, int] = (1, 5, 5), seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    pixels = shape[0] * shape[1] * shape[2]
    layer = nn.Linear(pixels, classes)
    layer.bias.data = -layer.weight.data.sum(1) / 2  # grey images are undecided: all classes occur
    return nn.Sequential(nn.Flatten(), layer).eval()


def batch(
    model: nn.Module, n: int, shape: tuple[int, int, int] = (1, 5, 5), wrong: int = 0
) -> tuple[Tensor, Tensor]:
    """Images well inside [0, 1] with the network's own labels, the first ``wrong`` falsified."""
    images = 0.3 + 0.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return images, labels


def margins(model: nn.Sequential, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """The exact radius that a linear network withstands, an image: min_j gap_j / dual norm."""
    weight = model[1].weight.detach()
    with torch.no_grad():
        logits = model(images)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = weight[labels][:, None, :] - weight[None]
    lengths = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    radii = gaps / lengths
    radii[torch.arange(len(labels)), labels] = torch.inf
    return radii.amin(1)


class Counting(nn.Module):
    """Counts the images that pass through a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return self.model(images)


def between(radii: Tensor, share: float) -> float:
    """A radius that about this share of the images withstands, far from any image's own."""
    ordered = radii[radii > 0].sort().values
    place = int((1 - share) * len(ordered))
    return float((ordered[place - 1] + ordered[place]) / 2)
