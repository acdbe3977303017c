"""Checkpoints of HYDRA's reference implementation (https://github.com/inspire-group/hydra)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.names import aligned
from robustprune.artifacts.pickles import read_pickle
from robustprune.artifacts.saved import Outline, SavedModel, differences, listed
from robustprune.artifacts.state_dict import INSIDE, fitted, state_dict_of
from robustprune.errors import UsageError, nearest
from robustprune.masking import prunable_layers

_CIFAR = {"in_chans": 3, "image_size": 32, "mean": [0.0] * 3, "std": [1.0] * 3}
_MNIST = {"in_chans": 1, "image_size": 28, "mean": [0.0], "std": [1.0]}
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vgg16_bn": {"name": "vgg16_bn_cifar", **_CIFAR},
    "wrn_28_4": {"name": "wrn_28_4", **_CIFAR},
    "wrn_28_10": {"name": "wrn_28_10", **_CIFAR},
    "resnet18": {"name": "resnet18_cifar", **_CIFAR},
    "cifar_model": {"name": "cnn_small", **_CIFAR},
    "cifar_model_large": {"name": "cnn_large", **_CIFAR},
    "mnist_model": {"name": "cnn_small", **_MNIST},
    "mnist_model_large": {"name": "cnn_large", **_MNIST},
    "ResNet50": {"name": "resnet50", "in_chans": 3, "image_size": 224, **_IMAGENET},
}
"""The reference's names of networks, and what they are here, classes apart."""

_OURS = {"cnn_small": "cifar_model", "cnn_large": "cifar_model_large"}
_OURS |= {"vgg16_bn_cifar": "vgg16_bn", "resnet18_cifar": "resnet18"}
_SCORES = "popup_scores"
_DENSE = 0.999  # of the weights are not zero: chance zeros, and no pruning


def read_hydra(path: Path, *, arch: str | None = None, density: float | None = None) -> SavedModel:
    """A network of the reference, masked by its own rule and baked.

    A checkpoint with scores holds every weight of the network; its mask depends on the density,
    which it does not name. One without scores holds zeros where the network was pruned.

    Args:
        path: what its ``train.py`` wrote.
        arch: its name for the network, or ours; the checkpoint's own if None.
        density: its ``k``, in (0, 1]; needed if there are scores, and refused if there are none.

    Raises:
        UsageError: the file is refused, or does not fit the architecture or the density.
    """
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"--density {density} is not in (0, 1]. For 99 % sparsity write 0.01.")
    checkpoint = read_pickle(ModelFile(path).path)
    tensors = state_dict_of(path, checkpoint)
    architecture = ARCHITECTURES[_architecture(path, checkpoint, arch)]
    scores = {n: value for n, value in tensors.items() if n.rpartition(".")[2] == _SCORES}
    weights = {name: value for name, value in tensors.items() if name not in scores}
    matrices = [value for value in weights.values() if value.ndim == 2]
    if not matrices:
        raise UsageError(f"{path} holds no linear layer, which every network of the reference has.")
    options = {"num_classes": len(matrices[-1]), **architecture}
    model = fitted(Outline(path, {"model": options}, tensors=len(weights)), weights).model
    prunable = {f"{name}.weight": layer.weight for name, layer in prunable_layers(model).items()}
    if scores:
        masks = _by_scores(path, prunable, scores, density)
    elif density is None:
        masks = {name: weight.detach() != 0 for name, weight in prunable.items()}
    else:
        raise UsageError(
            f"{path} holds no scores: its zeros say which weights were pruned. Leave --density out."
        )
    with torch.no_grad():
        for name, mask in masks.items():
            prunable[name].copy_(torch.where(mask, prunable[name], 0.0))  # w * 0 may be -0.0
    kept = sum(int(mask.sum()) for mask in masks.values())
    share = kept / sum(mask.numel() for mask in masks.values())
    if share > _DENSE:
        masks, share = {}, 1.0
    metadata = {"model": options, "density": density or share, "turnover": None, "pruner": None}
    said = {key: _plain(checkpoint.get(key)) for key in ("arch", "epoch", "best_prec1")}
    imported = {"format": "hydra", "file": path.name, **said}
    metadata["imported"] = {key: value for key, value in imported.items() if value is not None}
    return SavedModel(model, masks, metadata)


def reference_mask(scores: Tensor, density: float) -> Tensor:
    """All but the ``int((1 − density)·n)`` smallest |score|, as the reference computes it.

    It may keep one more than `robustprune.masking` does at the same density.
    """
    mask = torch.ones_like(scores, dtype=torch.bool).flatten()
    mask[scores.abs().flatten().sort().indices[: int((1 - density) * mask.numel())]] = False
    return mask.reshape(scores.shape)


def _architecture(path: Path, checkpoint: Mapping[str, Any], asked: str | None) -> str:
    said = checkpoint.get("arch")
    said = said if isinstance(said, str) else None
    name = _OURS.get(asked or "", asked) or said
    if name is None:
        raise UsageError(f"{path} does not say what network it holds: name it with --arch.")
    if name not in ARCHITECTURES:
        choices = {*ARCHITECTURES, *_OURS}
        raise UsageError(f"--arch {name} cannot be imported.{nearest(name, choices)}")
    if said not in (None, name):
        raise UsageError(f"{path} holds '{said}' by its own words, not --arch {asked}.")
    return name


def _by_scores(
    path: Path, prunable: Mapping[str, Tensor], scores: Mapping[str, Tensor], density: float | None
) -> dict[str, Tensor]:
    if density is None:
        raise UsageError(
            f"{path} holds scores, and not how many weights were kept by them. Name the 'k' that "
            "it was pruned with: --density 0.1, or 1 for a network that was only trained."
        )
    inner = {name.removeprefix(INSIDE): name for name in prunable}
    renamed = {f"{name.removesuffix(_SCORES)}weight": value for name, value in scores.items()}
    ours, others = aligned(inner, renamed)
    found = {inner.get(name, name): value for name, value in (ours | others).items()}
    wrong = differences(prunable, found)
    wrong += [f"{n} is not finite" for n in found if not bool(found[n].isfinite().all())]
    if wrong:
        raise UsageError(f"{path} has scores that do not fit its layers: {listed(wrong)}.")
    return {name: reference_mask(found[name], density) for name in prunable}


def _plain(value: Any) -> str | int | float | None:
    """Text or a number, as JSON has it; None of anything else."""
    value = value.item() if isinstance(value, np.generic) else value
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, str | int | float) and finite else None
