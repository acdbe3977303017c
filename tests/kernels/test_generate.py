"""Kernels can be compiled for other machines: each into its vectors, and without calls."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from robustprune.kernels import generate as made
from robustprune.kernels import jit
from robustprune.kernels.tiles import TileKind, Window, tiles

MACHINES = {
    "avx2": ("x86_64-unknown-linux-gnu", "x86-64-v3", 8, r"vfmadd\S+\s.*%ymm"),
    "avx512": ("x86_64-unknown-linux-gnu", "x86-64-v4", 16, r"vfmadd\S+\s.*%zmm"),
    "neon": ("aarch64-unknown-linux-gnu", "generic", 4, r"fmla\s+v\d+\.4s"),
}
WINDOW = Window((3, 3), padding=(1, 1))


def kind(most: int) -> TileKind:
    """A tile at a corner: its taps reach it in several ways."""
    found = tiles(WINDOW, (8, 8), (8, 8), rows=(8, 8), most=most)
    return max(found, key=lambda tile: len(tile.runs))


TAPS = tuple(row * 8 + column for row in (-1, 0, 1) for column in (-1, 0, 1))
KERNELS: dict[str, Callable[[int], str]] = {
    "map": lambda width: made.map_kernel(
        kind(12), width=width, unit=4 * width, unroll=2, short=True, residual=True, mask=True,
        lanes=True, ahead=(0, 1),
    ),
    "pool": lambda width: made.pool_kernel(
        kind(12), TAPS, width=width, unit=4 * width, lanes=True
    ),
    "unpool": lambda width: made.unpool_kernel(((kind(1), 0, 1),), TAPS, width=width),
    "rows": lambda width: made.rows_kernel(width=width, residual=True),
    "split": lambda width: made.split_kernel(width=width, step=2),
    "split by three": lambda width: made.split_kernel(width=width, step=3),
    "gather": lambda width: made.batch_kernel(width=width, gather=True),
    "scatter": lambda width: made.batch_kernel(width=width, gather=False),
    "weight gradient": lambda width: made.weight_gradient_kernel(
        kind(12), width=width, unit=4 * width, short=False
    ),
    "driver": lambda width: made.driver(),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_another_machine(machine: str, name: str) -> None:
    triple, cpu, width, multiply = MACHINES[machine]
    text = jit.assembly(KERNELS[name](width), triple, cpu)
    if name in ("map", "rows", "weight gradient"):
        assert re.search(multiply, text)
    if name != "driver":  # it calls the others
        assert not re.search(r"^\s+(callq?|bl)\s", text, re.MULTILINE)
