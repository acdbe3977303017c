"""A network's layers as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustprune.artifacts.saved import SavedModel


def layer_table(saved: SavedModel) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what is kept of each prunable layer, and of all of them."""
    from robustprune.masking import prunable_layers

    rows, sums = [], [0, 0]
    for name, layer in prunable_layers(saved.model).items():
        mask = saved.masks.get(f"{name}.weight".lstrip("."))
        total = layer.weight.numel()
        kept = total if mask is None else int(mask.sum())
        shape = "×".join(map(str, layer.weight.shape))
        rows.append([name, shape, f"{kept:,}", f"{total:,}", f"{kept / total:.4g}"])
        sums = [sums[0] + kept, sums[1] + total]
    rows.append(["all", "", f"{sums[0]:,}", f"{sums[1]:,}", f"{sums[0] / max(sums[1], 1):.4g}"])
    return ["layer", "shape", "kept", "of", "density"], rows
