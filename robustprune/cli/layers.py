"""A network's layers as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustprune.artifacts.saved import SavedModel


def layer_table(saved: SavedModel) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what is kept of each prunable layer, and of all of them."""
    from robustprune.artifacts.sizes import kept_weights

    layers = kept_weights(saved)
    rows = [
        [layer.name, "×".join(map(str, layer.shape)), *_counts(layer.kept, layer.total)]
        for layer in layers
    ]
    kept, total = sum(layer.kept for layer in layers), sum(layer.total for layer in layers)
    rows.append(["all", "", *_counts(kept, total)])
    return ["layer", "shape", "kept", "of", "density"], rows


def _counts(kept: int, total: int) -> list[str]:
    return [f"{kept:,}", f"{total:,}", f"{kept / max(total, 1):.4g}"]
