"""Networks and batches small enough to know the answer."""

import torch
from torch import Tensor, nn

from robustprune.datasets.source import TensorSource
from robustprune.evaluators import Evaluator
from robustprune.pipeline.evaluate import judge
from robustprune.pipeline.evaluation_state import Subject
from robustprune.tracking import Console
from robustprune.types import Batch


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


def numbered(images: Tensor, labels: Tensor, sizes: int | tuple[int, ...]) -> list[Batch]:
    """The images in batches of these sizes."""
    pairs = zip(images.split(sizes), labels.split(sizes), strict=True)
    return [Batch(number, *pair) for number, pair in enumerate(pairs)]


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


def centred(*layers: nn.Module) -> nn.Sequential:
    """A network that is undecided about grey images, so that all classes occur."""
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[-1].bias -= model(torch.full((1, 1, 5, 5), 0.5))[0]
    return model


def relu(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return centred(*layers, nn.Linear(100, 20), nn.ReLU(), nn.Linear(20, 4))


def pooled() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, stride=1), nn.Flatten()]
    return centred(*layers, nn.Linear(8, 3))


def spread(model: nn.Module, n: int = 40, wrong: int = 3) -> tuple[Tensor, Tensor]:
    """From nearly grey images to bright ones, the first ``wrong`` with false labels."""
    contrast = torch.linspace(0.02, 1, n)[:, None, None, None]
    noise = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(1)) - 0.5
    pixels = 0.5 + contrast * noise
    with torch.no_grad():
        logits = model(pixels)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return pixels, labels


def evaluated(
    evaluator: Evaluator,
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    sizes: int,
    network: str = "dense",
) -> dict[str, Tensor]:
    """What an evaluator says of all images, judged ``sizes`` at a time."""
    _, images = judge(
        evaluator.model_copy(update={"batch_size": sizes}),
        Subject(model, TensorSource(pixels, labels), network=network, seed=0),
        device=torch.device("cpu"),
        console=Console(quiet=True),
    )
    return images
