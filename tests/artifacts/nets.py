import struct
from pathlib import Path

import torch
from torch import Tensor, nn

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


def header(path: Path) -> bytes:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length]
