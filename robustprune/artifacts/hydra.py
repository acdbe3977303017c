"""Checkpoints of HYDRA's reference implementation (https://github.com/inspire-group/hydra)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustprune.artifacts.names import aligned
from robustprune.artifacts.pickles import read_pickle
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.state_dict import INSIDE, fitted, state_dict_of
from robustprune.errors import UsageError, nearest
from robustprune.masking import prunable_layers
from robustprune.models.normalize import Normalized

_CIFAR = {"in_chans": 3, "image_size": 32, "mean": [0.0] * 3, "std": [1.0] * 3}
_MNIST = {"in_chans": 1, "image_size": 28, "mean": [0.0], "std": [1.0]}
_IMAGENET = {
    "in_chans": 3,
    "image_size": 224,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vgg16_bn": {"name": "vgg16_bn_cifar", **_CIFAR},
    "wrn_28_4": {"name": "wrn_28_4", **_CIFAR},
    "wrn_28_10": {"name": "wrn_28_10", **_CIFAR},
    "resnet18": {"name": "resnet18_cifar", **_CIFAR},
    "cifar_model": {"name": "cnn_small", **_CIFAR},
    "cifar_model_large": {"name": "cnn_large", **_CIFAR},
    "mnist_model": {"name": "cnn_small", **_MNIST},
    "mnist_model_large": {"name": "cnn_large", **_MNIST},
    "ResNet50": {"name": "resnet50", **_IMAGENET},
}
"""The reference's names of networks, and what they are here, classes apart."""

_OURS = {"cnn_small": "cifar_model", "cnn_large": "cifar_model_large"}
_OURS |= {"vgg16_bn_cifar": "vgg16_bn", "resnet18_cifar": "resnet18"}
_SCORES = "popup_scores"
_DENSE = 0.999  # of the weights are not zero: chance zeros, and no pruning


def architecture_name(name: str) -> str:
    """The reference's name for a network that is called by its name, or by ours.

    Raises:
        UsageError: it has no such network that could be imported.
    """
    found = _OURS.get(name, name)
    if found not in ARCHITECTURES:
        choices = {*ARCHITECTURES, *_OURS}
        raise UsageError(f"--arch {name} cannot be imported.{nearest(name, choices)}")
    return found


def read_hydra(path: Path, *, arch: str | None = None, density: float | None = None) -> SavedModel:
    """A network of the reference, masked by its own rule and baked.

    A checkpoint with scores holds every weight of the network; its mask depends on the density,
    which it does not name. One without scores holds zeros where the network was pruned.

    Args:
        path: what its ``train.py`` wrote: a mapping with ``state_dict`` and, usually, ``arch``,
            ``epoch``, ``best_prec1`` and the optimizer's state.
        arch: its name for the network, or ours; the checkpoint's own if None.
        density: its ``k``, in (0, 1]; needed if there are scores. If there are none, the zeros
            must agree: as many in each layer, or a few more that are so by chance.

    Raises:
        UsageError: the file is damaged or refused, does not fit the architecture, or the density
            is missing or contradicts the zeros.
    """
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"--density {density} is not in (0, 1]. For 99 % sparsity write 0.01.")
    checkpoint = read_pickle(path)
    arch = _architecture(path, checkpoint, arch)
    tensors = state_dict_of(path, checkpoint)
    scores = {n: value for n, value in tensors.items() if n.rpartition(".")[2] == _SCORES}
    weights = {name: value for name, value in tensors.items() if name not in scores}
    options = {"num_classes": _classes(path, weights), **ARCHITECTURES[arch]}
    model, _ = fitted(path, {"model": options}, weights)
    prunable = {f"{name}.weight": layer.weight for name, layer in prunable_layers(model).items()}
    prefix = INSIDE if isinstance(model, Normalized) else ""
    own = [name.removeprefix(prefix) for name in prunable]
    ours, others = aligned(
        own, {f"{name.removesuffix(_SCORES)}weight": s for name, s in scores.items()}
    )
    given = {f"{prefix}{name}": s for name, s in (ours | others).items()}
    masks = (
        _by_scores(path, prunable, given, density) if scores else _by_zeros(path, prunable, density)
    )
    with torch.no_grad():
        for name, mask in masks.items():
            prunable[name].copy_(torch.where(mask, prunable[name], 0.0))  # w * 0 may be -0.0
    kept = sum(int(mask.sum()) for mask in masks.values())
    share = kept / sum(mask.numel() for mask in masks.values())
    if share > _DENSE:
        masks, share = {}, 1.0
    density = share if density is None else density
    metadata = {"model": options, "density": density, "turnover": None, "pruner": None}
    said = {key: checkpoint.get(key) for key in ("arch", "epoch", "best_prec1")}
    metadata["imported"] = {"format": "hydra", "file": path.name, **_plain(said)}
    return SavedModel(model.eval(), masks, metadata)


def reference_mask(scores: Tensor, density: float) -> Tensor:
    """All but the ``int((1 − density)·n)`` smallest |score|, as the reference computes it.

    It may keep one more than `robustprune.masking` does at the same density.
    """
    smallest = scores.abs().flatten().sort().indices[: int((1 - density) * scores.numel())]
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[smallest] = False
    return mask.reshape(scores.shape)


def _architecture(path: Path, checkpoint: Any, asked: str | None) -> str:
    said = checkpoint.get("arch") if isinstance(checkpoint, Mapping) else None
    if asked is None:
        if not isinstance(said, str):
            raise UsageError(f"{path} does not say what network it holds: name it with --arch.")
        return architecture_name(said)
    arch = architecture_name(asked)
    if isinstance(said, str) and said != arch:
        raise UsageError(f"{path} holds '{said}' by its own words, not --arch {asked}.")
    return arch


def _classes(path: Path, weights: Mapping[str, Tensor]) -> int:
    """How many rows the last matrix has."""
    matrices = [value for value in weights.values() if value.ndim == 2]
    if not matrices:
        raise UsageError(f"{path} holds no linear layer, which every network of the reference has.")
    return len(matrices[-1])


def _by_scores(
    path: Path, prunable: Mapping[str, Tensor], scores: Mapping[str, Tensor], density: float | None
) -> dict[str, Tensor]:
    if density is None:
        raise UsageError(
            f"{path} holds scores, and not how many weights were kept by them. Name the 'k' that "
            "it was pruned with: --density 0.1, or 1 for a network that was only trained."
        )
    wrong = [
        f"{name} has {'no' if name not in scores else 'misshapen'} scores"
        for name, weight in prunable.items()
        if name not in scores or scores[name].shape != weight.shape
    ]
    wrong += [f"{name} is no layer" for name in sorted(scores.keys() - prunable.keys())]
    wrong += [f"{name} has scores that are no numbers" for name in scores if _is_odd(scores[name])]
    if wrong:
        raise UsageError(f"{path}: {'; '.join(wrong[:5])}.")
    return {name: reference_mask(scores[name], density) for name in prunable}


def _by_zeros(
    path: Path, prunable: Mapping[str, Tensor], density: float | None
) -> dict[str, Tensor]:
    masks = {name: weight.detach() != 0 for name, weight in prunable.items()}
    if density is None:
        return masks
    wanted = {name: int((1 - density) * mask.numel()) for name, mask in masks.items()}
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    kept = sum(mask.numel() - wanted[name] for name, mask in masks.items())
    surplus = {name: zeros[name] - wanted[name] for name in masks}
    most = max(surplus, key=lambda name: surplus[name])
    name = next((name for name in surplus if surplus[name] < 0), most)
    if surplus[name] < 0 or sum(surplus.values()) > (1 - _DENSE) * kept:
        raise UsageError(
            f"{path} has no scores, and {name} has {zeros[name]:,} zeros of "
            f"{masks[name].numel():,} weights, where density {density:g} asks for "
            f"{wanted[name]:,}. Leave --density out to take the zeros as they are."
        )
    return masks


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are text or numbers, as JSON has them."""
    numbers = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in said.items()
    }
    return {
        key: value
        for key, value in numbers.items()
        if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    }


def _is_odd(scores: Tensor) -> bool:
    return not scores.is_floating_point() or not bool(scores.isfinite().all())
