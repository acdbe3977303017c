"""Tables of what masks keep of each layer, as rows for a console and as text for ``repr``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""


@dataclass(frozen=True)
class LayerReport:
    """Numbers of weights that a mask keeps of one layer."""

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Fraction kept, in (0, 1]."""
        return self.kept / self.total


def layer_table(layers: Sequence[LayerReport], scores: Mapping[str, Tensor] | None = None) -> Table:
    """What is kept of each layer, and of all of them.

    Args:
        layers: in the network's order.
        scores: of the weights, whose smallest and largest are shown, by the layer's name.
    """
    counts = [(one.name, "×".join(map(str, one.shape)), one.kept, one.total) for one in layers]
    counts += [("all", "", sum(one.kept for one in layers), sum(one.total for one in layers))]
    rows = [
        [name, shape, f"{kept:,}", f"{total:,}", f"{kept / max(total, 1):.4g}"]
        for name, shape, kept, total in counts
    ]
    columns = ["layer", "shape", "kept", "of", "density"]
    if scores:
        columns.append("scores")
        for row in rows:
            found = scores.get(row[0])
            known = found is not None and found.numel()
            row.append(f"{float(found.min()):.3g} to {float(found.max()):.3g}" if known else "")  # type: ignore[union-attr]
    return columns, rows


def as_text(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table as lines of plain text; all but the first ``words`` columns end at the right."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    padded = (
        (cell.ljust(width) if place < words else cell.rjust(width))
        for line in lines
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    grouped = zip(*[padded] * len(columns), strict=True)
    return "\n".join("  ".join(line).rstrip() for line in grouped)
