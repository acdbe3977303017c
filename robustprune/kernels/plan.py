"""Plans: where each value of a network lies in memory, and the calls that compute it.

There are two layouts. `images.py` holds a group of as many images as a vector has floats, and each
pixel is a vector of them. `pixels.py` holds one image, and a vector is several of its pixels.

A plan is made once. An `Arena` is memory in which it is computed, by one thread or by a team.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import emit, generate, jit
from .lower import Lowered, Map, Shape, Unsupported, Weights
from .operations import Array

_MAKERS = hashlib.sha256(
    b"".join(Path(module.__file__ or "").read_bytes() for module in (emit, generate))
).hexdigest()  # of the code that makes IR; read when it is imported, before the files can change
LINE = 64
"""Bytes of a cache line; buffers begin at one."""
_ROW = 8  # weights that the start and the end of a row cost as much as

Value = Any
"""A value of a network, by its number, or one that a plan makes of it, by a tuple."""
Buffer = tuple[str, Value]
"""What a buffer holds: the ``value`` itself, its ``gradient``, or the ``sums`` of one's weights."""
Share = tuple[int, int, int, int]
"""A thread's part: first and last tile, first and last channel."""

IMAGES: Buffer = ("batch", None)
"""Stands for the memory of the batch that goes in, or that comes out."""


def aligned(count: int) -> Array:
    """Zeros that begin at a line of the cache."""
    memory = np.zeros(count + LINE // 4, np.float32)
    start = -memory.ctypes.data % LINE // 4
    return memory[start : start + count]


@cache
def compiled(maker: Callable[..., str], *values: Any, **options: Any) -> int:
    """The address of a kernel; its IR follows from the code that makes it, and the arguments."""
    source = f"{_MAKERS} {maker.__name__} {values} {sorted(options.items())}"
    return jit.compiled(lambda: maker(*values, **options), generate.SYMBOL, source=source)


@cache
def driver() -> Any:
    """The function that makes a list of calls; other Python threads run meanwhile."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(None, pointer, number, number, number, pointer, pointer)
    return kind(jit.compiled(generate.driver(), generate.DRIVER))


@dataclass(frozen=True)
class Geometry:
    """Where a value lies in its buffer, in floats.

    Attributes:
        channel: from one channel to the next.
        row: from one row to the next.
        pixel: from one pixel to the next.
        start: before the first pixel.
        size: in all.
    """

    channel: int
    row: int
    pixel: int
    start: int
    size: int


@dataclass
class Step:
    """One call.

    Attributes:
        function: address of the kernel.
        job: its fields: numbers, addresses of tables, and buffers.
        shares: what each thread of the team does.
        scratch: floats that each thread needs.
        meet: True if threads wait for one another after it.
    """

    function: int
    job: list[int | Buffer]
    shares: list[Share]
    scratch: int = 0
    meet: bool = True


@dataclass(eq=False)
class Table:
    """The weights of a map as kernels read them.

    Attributes:
        values: in the kernel's order.
        offsets: to where each reads; of 16 bits, unsigned, or of 32.
        rows: number of the first one of each row.
        bias: of each output.
        order: the number of each one in the source; -1 where a row is filled up.
        source: the weights.
        biased: True if the source's bias is added.
        first: what the offsets count from, in the unit that they count in.
    """

    values: Array
    offsets: NDArray[Any]
    rows: NDArray[np.int32]
    bias: Array
    order: NDArray[np.int64]
    source: Weights
    biased: bool = True
    first: int = 0

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Take over the values that its weights have now."""
        self.values[:] = np.where(self.order < 0, np.float32(0), self.source.values[self.order])
        if self.biased:
            self.bias[:] = self.source.bias


class Plan:
    """The calls of a network in one layout.

    Attributes:
        network: what is computed.
        team: threads that compute it together.
        shapes: channels, rows and columns of each value.
        geometries: where each value lies.
        forward: calls from the batch to the output.
        backward: calls from the output's gradient to the batch's, where there is a way back.
        tables: of the maps.
        slots: which buffer holds a value, where several take turns in one, and its size.
    """

    def __init__(self, network: Lowered, team: int) -> None:
        self.network, self.team = network, team
        self.width = jit.vector_width()
        self.shapes: dict[Value, Shape] = dict(network.shapes)
        self.geometries: dict[Value, Geometry] = {}
        self.forward: list[Step] = []
        self.backward: list[Step] = []
        self.tables: list[Table] = []
        self.slots: dict[Value, tuple[int, int]] = {}
        self._kept: list[NDArray[Any]] = []

    def address(self, array: NDArray[Any]) -> int:
        """Keep an array that calls read, and say where it is."""
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return int(array.ctypes.data)

    def call(
        self, steps: list[Step], function: int, fields: str, shares: list[Share], *,
        scratch: int = 0, meet: bool = True, **values: Any,
    ) -> None:  # fmt: skip
        """Add a call whose job has these fields, in the order of their names; others are 0."""
        names = [name.lstrip("#") for name in fields.split()]
        assert values.keys() <= set(names), values.keys() - set(names)
        job = [values.get(name, 0) for name in names]
        steps.append(Step(function, job, shares, scratch, meet))

    def by_channel(self, work: Iterable[int], tiles: int = 1) -> list[Share]:
        """Each thread gets all tiles of some channels, with about as much work as the others."""
        total = np.cumsum(np.fromiter(work, np.int64) + _ROW)
        goals = total[-1] * np.arange(1, self.team) / self.team
        cuts = [0, *(int(cut) for cut in np.searchsorted(total, goals)), len(total)]
        return [(0, tiles, first, last) for first, last in pairwise(cuts)]

    def by_tile(self, work: NDArray[np.int64], tiles: int) -> list[Share]:
        """Each thread gets some tiles, or, where there are too few to be fair, some channels."""
        if tiles % self.team and tiles < 4 * self.team:
            return self.by_channel(work, tiles)
        cuts = [tiles * thread // self.team for thread in range(self.team + 1)]
        return [(first, last, 0, len(work)) for first, last in pairwise(cuts)]

    def table(
        self, weights: Weights, offsets: NDArray[np.int64], *, rows: NDArray[np.int32],
        columns: NDArray[np.int32], outputs: int, segments: int, block: int, biased: bool = True,
    ) -> Table:  # fmt: skip
        """Sort weights by block of input channels, output channel and segment.

        Args:
            weights: of a map.
            offsets: pixels to where each reads.
            rows: output channel of each.
            columns: input channel of each.
            outputs: how many output channels there are.
            segments: taps, if they are told apart, or 1.
            block: input channels of a block.
            biased: False where no bias is added.
        """
        taps = weights.taps if segments > 1 else np.zeros_like(weights.taps)
        blocks = int(columns.max(initial=0)) // block + 1
        key = (columns.astype(np.int64) // block * outputs + rows) * segments + taps
        order = np.lexsort((columns, key))
        starts = np.zeros(blocks * outputs * segments + 1, np.int32)
        np.cumsum(np.bincount(key, minlength=len(starts) - 1), out=starts[1:])
        first = int(offsets.min(initial=0))
        offsets = offsets - first
        kind = np.uint16 if offsets.max(initial=0) < 2**16 else np.int32
        values, bias = (np.zeros(count, np.float32) for count in (len(order), outputs))
        made = Table(
            values,
            checked(offsets)[order].astype(kind),
            starts,
            bias,
            order,
            weights,
            biased,
            first,
        )
        self.tables.append(made)
        return made

    def where(self, table: Table) -> dict[str, Any]:
        """The fields of a job that are in a table."""
        names = {"weights": table.values, "offsets": table.offsets, "rows": table.rows}
        return {name: self.address(array) for name, array in (names | {"bias": table.bias}).items()}

    def from_first(self, places: NDArray[np.int64], table: Table, unit: int) -> int:
        """The address of tiles' places, in bytes, for offsets that count from ``table.first``."""
        places = places.copy()
        places[:, 0] += table.first * unit
        return self.address(places)


def checked(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets, if 32 bits hold them."""
    if len(offsets) and np.abs(offsets).max() >= 2**31:
        raise Unsupported("a map of more than two billion pixels")
    return offsets


def floor(node: Map) -> int:
    """The bits of the least value that a map gives."""
    return int(np.float32(0 if node.relu else -np.inf).view(np.uint32))


def unrolled(outputs: int) -> int:
    """Weights at a time, so that enough sums are under way at once."""
    return 1 if outputs >= 8 else 2 if outputs >= 3 else 4 if outputs == 2 else 8


class Arena:
    """Memory in which a plan is computed, and its calls.

    Args:
        plan: what is computed.
        forth: the arena of the way forth, whose memory this one, of the way back, shares.
    """

    _let_others: ClassVar[int | None] = ctypes.cast(
        ctypes.CDLL(None).sched_yield, ctypes.c_void_p
    ).value

    def __init__(self, plan: Plan, forth: Arena | None = None) -> None:
        self.plan = plan
        self.buffers: dict[Any, Array] = forth.buffers if forth else {}
        steps = plan.backward if forth else plan.forward
        room = max(step.scratch for step in steps)
        self._scratch = [aligned(room) for _ in range(plan.team)]
        self._ends: list[tuple[NDArray[np.int64], int]] = []
        self._kept: list[NDArray[np.int64]] = []
        self._calls = np.zeros((len(steps), 4), np.int64)
        self._met = np.zeros(1, np.int64)
        meets = 0
        for number, step in enumerate(steps):
            job, shares = np.zeros(len(step.job), np.int64), np.zeros((plan.team, 5), np.int64)
            for place, entry in enumerate(step.job):
                if entry == IMAGES:
                    self._ends.append((job, place))
                else:
                    job[place] = self._address(entry) if isinstance(entry, tuple) else entry
            shares[:, :4] = step.shares
            shares[:, 4] = [memory.ctypes.data for memory in self._scratch]
            meets += step.meet
            self._calls[number] = (
                step.function, job.ctypes.data, shares.ctypes.data, meets if step.meet else 0
            )  # fmt: skip
            self._kept += [job, shares]

    def _address(self, buffer: Buffer) -> int:
        kind, value = buffer
        if kind == "sums":
            size, start, key = value.count, 0, buffer
        else:
            at = self.plan.geometries[value]
            slot = self.plan.slots.get(value)
            size, start, key = at.size, at.start, buffer
            if slot is not None and kind == "value":
                key, size = ("slot", slot[0]), slot[1]
        if key not in self.buffers:
            self.buffers[key] = aligned(size)
        return int(self.buffers[key].ctypes.data) + 4 * start

    def aim(self, *ends: NDArray[np.float32]) -> None:
        """Say from where, and to where, batches go: an array for each call that has one."""
        for (job, place), array in zip(self._ends, ends, strict=True):
            job[place] = array.ctypes.data
        self._aimed = ends
        self._met[0] = 0

    def run(self, thread: int = 0) -> None:
        """Make the calls, as one thread of the team."""
        calls, met = self._calls, self._met.ctypes.data
        driver()(calls.ctypes.data, len(calls), thread, self.plan.team, met, self._let_others)

    def let_go(self) -> None:
        """Let no thread of the team wait any more; what they compute is worth nothing."""
        self._met[0] = 2**62

    def view(self, value: Value) -> Array:
        """The pixels of a value that a buffer of its own holds, of one image: ``(C, H, W)``."""
        at = self.plan.geometries[value]
        strides = (4 * at.channel, 4 * at.row, 4 * at.pixel)
        memory = self.buffers["value", value][at.start :]
        return np.lib.stride_tricks.as_strided(memory, self.plan.shapes[value], strides)

    @cached_property
    def back(self) -> Arena:
        """The way back, over the same memory."""
        return Arena(self.plan, self)
