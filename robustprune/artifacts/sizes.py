"""Sizes of a network: kept weights, bytes as dense tensors, packed, and at least."""

from __future__ import annotations

import math

from scipy.special import entr

from robustprune.artifacts.backends.packed import pack
from robustprune.artifacts.saved import SavedModel
from robustprune.masking import LayerReport, prunable_layers


def kept_weights(saved: SavedModel) -> list[LayerReport]:
    """The number of weights that the masks keep in each prunable layer; all where there is none."""
    reports = []
    for name, layer in prunable_layers(saved.model).items():
        mask, total = saved.masks.get(f"{name}.weight".lstrip(".")), layer.weight.numel()
        kept = total if mask is None else int(mask.sum())
        reports.append(LayerReport(name, tuple(layer.weight.shape), kept, total))
    return reports


def left_dense(saved: SavedModel) -> list[str]:
    """The prunable layers without a mask, in a network where others have one."""
    masked = {mask.removesuffix("weight").removesuffix(".") for mask in saved.masks}
    return [name for name in prunable_layers(saved.model) if name not in masked] if masked else []


def dense_bytes(saved: SavedModel) -> int:
    """Bytes of all tensors of the state dict, zeros included."""
    return sum(tensor.nbytes for tensor in saved.model.state_dict().values())


def packed_bytes(saved: SavedModel) -> int:
    """Bytes of a packed file of this network, up to some 300 of the container."""
    return sum(len(frame) for frame in pack(saved)[0])


def information_bound(saved: SavedModel) -> float:
    """Bytes that a network takes at least, if kept values and positions cannot be predicted.

    The kept values of pruned tensors, n·H(kept/n)/8 of positions, H in bits, and all other tensors.
    """
    total = 0.0
    for name, tensor in saved.model.state_dict().items():
        mask = saved.masks.get(name)
        if mask is None:
            total += tensor.nbytes
            continue
        kept, n = int(mask.sum()), mask.numel()
        bits = n * float(entr([kept / n, 1 - kept / n]).sum()) / math.log(2)
        total += kept * tensor.element_size() + bits / 8
    return total
