"""Small networks as files hold them, and helpers that spoil files."""

import copy
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from timm.models import is_model, register_model
from torch import Tensor, nn

from robustprune.artifacts.saved import SavedModel, save_model
from robustprune.artifacts.surgery import apply_surgery
from robustprune.models import create_model
from tests import masks

DIGITS = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1, "image_size": 8}
ARCHITECTURES = {
    "cnn_digits": DIGITS,
    "cnn_small_bn": {"name": "cnn_small_bn", "num_classes": 10, "in_chans": 3, "image_size": 32},
    "a timm network": {"name": "test_resnet", "num_classes": 4, "in_chans": 3},
    "normalised": {**DIGITS, "mean": [0.5], "std": [0.25]},
}


def pruned(
    architecture: dict = DIGITS,
    seed: int = 0,
    *,
    density: float = 0.1,
    scores: str = "magnitude",
) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(seed)
    model = create_model(**architecture)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    masked = masks.pruned(model, density)
    if scores == "random":
        masked.add_scores({name: torch.rand_like(w) for name, w in masked.weights.items()})
        masks.renew(masked, density)
    return model.eval(), masked.bake()


def document(architecture: dict = DIGITS) -> dict:
    return {"model": architecture, "pruner": {"name": "hydra"}, "density": 0.1, "turnover": 0.25}


def saved(architecture: dict = DIGITS, **options: object) -> SavedModel:
    return SavedModel(*pruned(architecture, **options), document(architecture))


def saved_to(path: Path, network: SavedModel) -> Path:
    """A run's file of a network."""
    save_model(path, network.model, masks=network.masks, metadata=network.metadata)
    return path


def own_network(name: str, make: Callable[[], nn.Module]) -> dict:
    """The architecture of a network that somebody registered with timm."""

    def build(pretrained: bool = False, **options: object) -> nn.Module:
        return make()

    build.__name__ = name
    if not is_model(name):
        register_model(build)
    return {"name": name, "in_chans": 1, "image_size": 8}


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.two(self.one(images.flatten(1)).relu())


def shared() -> SavedModel:
    return saved(own_network("tied_network", Tied))


def cut() -> SavedModel:
    """A masked network with BatchNorm, some of whose channels were removed."""
    kept = [1, 2, 5, 11]
    surgery = [
        {"layer": "0", "dimension": 0, "kept": kept},
        {"layer": "1", "dimension": 0, "kept": kept},
        {"layer": "3", "dimension": 1, "kept": kept},
    ]
    metadata = document(ARCHITECTURES["cnn_small_bn"]) | {"surgery": surgery}
    torch.manual_seed(0)
    model = apply_surgery(Path("x"), create_model(**metadata["model"]), metadata).eval()
    return SavedModel(model, masks.pruned(model, 0.1).bake(), metadata)


NETWORKS = {
    "batch norm": lambda: saved(ARCHITECTURES["cnn_small_bn"]),
    "normalised": lambda: saved(ARCHITECTURES["normalised"]),
    "after surgery": cut,
    "shared weights": shared,
    "dense": lambda: SavedModel(copy.deepcopy(pruned()[0]), {}, document()),
}
"""Networks that every backend must write rightly."""


def header(path: Path) -> bytes:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
