"""Seconds that layers take on this machine, measured once and kept beside the compiled kernels."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from robustprune import kernels
from robustprune.files import write_json
from robustprune.inference.recognition import KnownOperation, shape_after
from robustprune.inference.segment import Compile
from robustprune.kernels import jit
from robustprune.kernels.operations import Operation

_STEP = math.log(1.5)


class Seconds(NamedTuple):
    """Seconds of one layer and the ReLU behind it.

    Attributes:
        dense: torch's.
        sparse: of the kernels, in their layout; infinite if they cannot compute it.
        before: of a change between torch's layout and the kernels' at its input.
        after: at its output.
    """

    dense: float
    sparse: float
    before: float
    after: float


def least_seconds(*calls: Callable[[], object]) -> list[float]:
    """The least seconds of each call: several rounds, in which each has its turn."""
    best, spent = [math.inf] * len(calls), 0.0
    for number in range(30):
        for place, call in enumerate(calls):
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            best[place], spent = min(best[place], seconds), spent + seconds
        if (number >= 1 and spent > 1.0) or (number >= 4 and spent > 0.05):
            break
    return best


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch have so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Table:
    """Seconds by what was measured, on this machine with these versions; a file that may be lost.

    Args:
        path: None keeps nothing.
        machine: what the figures hold for; those of another are dropped.
    """

    def __init__(self, path: Path | None, machine: str) -> None:
        self._path, self._machine = path, machine
        self._rows: dict[str, list[float]] = {}
        self._is_new = False
        content: Any = None
        if path is not None:
            with suppress(OSError, ValueError):
                content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("machine") == machine:
            rows = content.get("rows")
            if isinstance(rows, dict) and all(map(_is_pair, rows.values())):
                self._rows = rows

    def seconds(self, key: str, measure: Callable[[], list[float]]) -> list[float]:
        """The pair of figures of ``key``: those that are there, or else those of ``measure``."""
        if key not in self._rows:
            self._rows[key], self._is_new = [float(f"{s:.3g}") for s in measure()], True
        return self._rows[key]

    def save(self) -> None:
        """Write what is new; a disk that does not take it is no fault."""
        if self._path is not None and self._is_new:
            with suppress(OSError):
                write_json(self._path, {"machine": self._machine, "rows": self._rows})


def _is_pair(row: Any) -> bool:
    return isinstance(row, list) and [type(one) for one in row] == [float, float]


def this_table() -> Table:
    """The table of this machine.

    Raises:
        kernels.Unavailable: it has no kernels.
    """
    machine = f"{jit.machine()} torch {torch.__version__} kernels {kernels.VERSION}"
    folder = jit.cache_folder()
    return Table(None if folder is None else folder / "layers.json", machine)


def layer_seconds(
    layer: KnownOperation,
    shape: tuple[int, ...],
    *,
    batch: int,
    threads: int,
    table: Table,
    program: Compile,
) -> Seconds:
    """Look up or measure a convolution or a linear layer.

    Args:
        layer: as said.
        shape: of one image's input.
        batch: images at once.
        threads: of both torch and the programs.
        table: where figures are looked up and kept.
        program: compiles operations.
    """
    relu = KnownOperation(Operation("relu", ()), "")

    def figures(key: str, shape: tuple[int, ...], *parts: KnownOperation) -> list[float]:
        key = f"{key}{shape}, batch {batch}, threads {threads}"
        return table.seconds(key, lambda: _measured(parts, shape, batch, program))

    weight, options = layer.operation.arrays["weight"], layer.operation.options
    kept = round(math.log(max(1, int(np.count_nonzero(weight)))) / _STEP)
    sizes = "".join(f"{name} {value}, " for name, value in sorted(options.items()))
    key = f"{layer.operation.kind} {weight.shape}, {sizes}kept 1.5^{kept}, of "
    dense, sparse = figures(key, shape, layer, relu)
    if not sparse:
        return Seconds(dense, math.inf, 0, 0)
    # a ReLU alone is little more than its two changes of layout
    after = shape_after(shape, layer.operation)
    changes = [figures("relu of ", one, relu)[1] / 2 for one in (shape, after)]
    return Seconds(dense, max(sparse - sum(changes), sparse / 10), *changes)


def _measured(
    parts: Sequence[KnownOperation], shape: tuple[int, ...], batch: int, program: Compile
) -> list[float]:
    """Seconds of a chain of operations: of torch, and of a program, 0 where there is none."""
    own = torch.Generator()  # a caller's random numbers do not depend on what is measured
    images, dense = torch.rand(batch, *shape, generator=own), nn.Sequential(*parts)
    array = images.numpy()
    operations = [replace(part.operation, inputs=(n,)) for n, part in enumerate(parts)]
    try:
        sparse = program(operations, shape)
    except kernels.Unsupported:
        return [*least_seconds(lambda: dense(images)), 0.0]
    return least_seconds(lambda: dense(images), lambda: sparse(array))
