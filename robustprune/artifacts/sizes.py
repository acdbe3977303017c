"""How large a network is, and how small it could be."""

from __future__ import annotations

import math

from robustprune.artifacts.saved import SavedModel
from robustprune.masking import LayerReport, prunable_layers


def kept_weights(saved: SavedModel) -> list[LayerReport]:
    """What the masks keep of each prunable layer; all of it where there is none."""
    reports = []
    for name, layer in prunable_layers(saved.model).items():
        mask, total = saved.masks.get(f"{name}.weight".lstrip(".")), layer.weight.numel()
        kept = total if mask is None else int(mask.sum())
        reports.append(LayerReport(name, tuple(layer.weight.shape), kept, total))
    return reports


def left_dense(saved: SavedModel) -> list[str]:
    """The prunable layers without a mask, in a network where others have one.

    A recipe excludes them, or their structure leaves them dense.
    """
    names = prunable_layers(saved.model)
    masked = {mask.removesuffix("weight").removesuffix(".") for mask in saved.masks}
    return [name for name in names if name not in masked] if masked else []


def dense_bytes(saved: SavedModel) -> int:
    """Bytes of all tensors of the state dict, zeros included."""
    return sum(tensor.nbytes for tensor in saved.model.state_dict().values())


def information_bound(saved: SavedModel) -> float:
    """Bytes that kept values and their positions take at least, if neither can be predicted.

    Over the pruned tensors the bytes of the kept values and n·H(kept/n)/8 of positions, H being the
    entropy of a coin in bits; and the bytes of all other tensors.
    """
    total = 0.0
    for name, tensor in saved.model.state_dict().items():
        mask = saved.masks.get(name)
        if mask is None:
            total += tensor.nbytes
        else:
            kept, n = int(mask.sum()), mask.numel()
            total += kept * tensor.element_size() + n * entropy(kept / n) / 8
    return total


def entropy(share: float) -> float:
    """Of a coin that lands on one side with probability ``share``; bits."""
    parts = [part for part in (share, 1 - share) if 0 < part < 1]
    return -sum(part * math.log2(part) for part in parts)
