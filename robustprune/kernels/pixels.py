"""The layout for few images: one at a time, and a vector is several of its pixels.

The rows of a map lie one behind the other with zeros between them, at least as many as any tap
reads beyond an edge. So a tap is one shift of the whole map, and a tile any stretch of it; what is
computed between the rows is set to zero. Maps that are read by taps of stride 1, or added, have
rows of one length; strides become 1 by cutting a map apart. Maps of one pixel are plain vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import generate, jit
from .lower import Lowered, Map, MaxPool, Node, Unsupported
from .plan import Geometry, Plan, Share, Table, Value, checked, compiled, floor, unrolled
from .tiles import TileKind, Window, cover

CACHE = 2**15
"""Bytes of the first cache that inputs may take."""
ENOUGH = 24
"""Weights of an output in a block of input channels, on average, from which blocks pay."""
LONGEST = 8
"""The longest stride: its kernel cuts a map into as many as its square."""


class PixelsPlan(Plan):
    """The calls for one image.

    Args:
        network: what is computed.
        team: threads that compute it together.

    Raises:
        Unsupported: the layout does not do for this network.
    """

    def __init__(self, network: Lowered, team: int) -> None:
        super().__init__(network, team)
        self._most = 24 if jit.registers() >= 32 else 12
        self._split: set[Value] = set()
        self._lay_out()
        for node in network.nodes:
            if isinstance(node, Map) and self._is_vector(node.y):
                self._rows(node)
                continue
            x = self._cut_apart(node)
            if isinstance(node, Map):
                self._map(node, x)
            else:
                self._pool(node, x)

    def _is_vector(self, value: Value) -> bool:
        # what a stride cuts a small map into has rows, with zeros around them, of one pixel, too
        return self.shapes[value][1:] == (1, 1) and not isinstance(value, tuple)

    def _lay_out(self) -> None:
        """Choose the padding and the length of rows of each value."""
        group: dict[Value, Value] = {}  # leads to the value that stands for those laid out alike
        padding: dict[Value, int] = {}
        length: dict[Value, int] = {}

        def leader(value: Value) -> Value:
            while group[value] != value:
                value = group[value]
            return value

        def new(value: Value) -> None:
            group[value], padding[value], length[value] = value, 0, self.shapes[value][2]

        def pad(value: Value, count: int) -> None:
            one, width = leader(value), self.shapes[value][2]
            padding[one] = max(padding[one], count)
            length[one] = max(length[one], width + padding[one])

        def join(value: Value, other: Value) -> None:
            one, two = leader(value), leader(other)
            group[two] = one
            pixels = max(length[n] - padding[n] for n in (one, two))
            padding[one] = max(padding[n] for n in (one, two))
            length[one] = max(length[one], length[two], pixels + padding[one])

        for value in list(self.shapes):
            new(value)
        for node in self.network.nodes:
            if isinstance(node, Map) and self._is_vector(node.y):
                continue
            if self._is_vector(node.x) or self._is_vector(node.y):
                raise Unsupported("a map of several pixels from one pixel, or largest ones to one")
            x: Value = node.x
            step, other = node.window.stride
            if step != other:
                raise Unsupported("rows and columns with different strides")
            if step > LONGEST:
                raise Unsupported(f"strides of more than {LONGEST} pixels")
            if step > 1:
                x = ("split", node.x, step)
                if x not in self.shapes:
                    channels, *size = self.shapes[node.x]
                    rows, columns = (-(-n // step) for n in size)
                    self.shapes[x] = (channels * step * step, rows, columns)
                    new(x)
                    pad(node.x, step - 1)
            beyond = [0]
            for axis in (0, 1):
                places = [_place(node.window, axis, tap) for tap in range(node.window.kernel[axis])]
                last = self.shapes[node.y][axis + 1] + max(places)
                beyond += [-min(places), last - self.shapes[x][axis + 1]]
            pad(x, max(beyond))
            join(x, node.y)
            if isinstance(node, Map) and node.residual is not None:
                join(node.y, node.residual)
        for value, (channels, height, _) in self.shapes.items():
            if self._is_vector(value):
                self.geometries[value] = Geometry(1, 1, 1, 0, channels + 4 * self.width)
                continue
            zeros, row = padding[leader(value)], length[leader(value)]
            start = zeros * row + zeros  # also the zeros below the channel before
            width, vectors = self._vectors(height * row)
            channel = max(start + height * row, vectors * width)
            if isinstance(value, tuple):  # its rows are written in vectors
                channel += self.width
            beyond_last = start + height * row + 16 * self.width
            floats = channels * channel + beyond_last
            self.geometries[value] = Geometry(channel, row, 1, start, floats)

    def _vectors(self, pixels: int) -> tuple[int, int]:
        """Floats of a vector, and vectors of a channel of so many pixels and zeros between."""
        # half as wide, fewer of them lie on two lines of the cache; wide ones suit what is between
        width = self.width if 32 < pixels < 256 else min(self.width, 4 if pixels <= 4 else 8)
        return width, -(-pixels // width)

    def _vectors_of(self, value: Value) -> tuple[int, int]:
        return self._vectors(self.shapes[value][1] * self.geometries[value].row)

    def _pieces(self, value: Value, most: int) -> list[tuple[TileKind, NDArray[np.int64], bool]]:
        """Stretches of vectors: their kind, where they begin in bytes, and True with the last."""
        width, vectors = self._vectors_of(value)
        starts: dict[int, list[int]] = {}
        for start, count in cover(vectors, most):
            starts.setdefault(count, []).append(start)
        found = []
        for number, (count, firsts) in enumerate(starts.items()):
            spots = tuple(width * i for i in range(count))
            kind = TileKind(spots, spots, ((0, 1, tuple(range(count))),), 1)
            places = np.repeat(4 * width * np.array(firsts, np.int64)[:, None], 3, axis=1)
            found.append((kind, places, number == len(starts) - 1))
        return found

    def _shares(
        self, work: Sequence[int] | NDArray[np.int64],
        pieces: list[tuple[TileKind, NDArray[np.int64], bool]], *, apart: bool,
    ) -> list[list[Share]]:  # fmt: skip
        """What threads do of each kind of piece: places of their own, or else channels.

        Threads with places of their own read little of what others wrote, but all weights.

        Args:
            work: of each channel.
            pieces: see `_pieces`.
            apart: True to give each thread places, if there are enough.
        """
        total = sum(len(places) for _, places, _ in pieces)
        if not apart or total < self.team:
            return [self.by_channel(work, len(places)) for _, places, _ in pieces]
        cuts = [total * thread // self.team for thread in range(self.team + 1)]
        found, before = [], 0
        for _, places, _ in pieces:
            first = [min(max(cut - before, 0), len(places)) for cut in cuts]
            found.append([(*ends, 0, len(work)) for ends in pairwise(first)])
            before += len(places)
        return found

    def _lanes(self, value: Value) -> int:
        """Address of bits to keep: all of each pixel, none between rows."""
        (_, height, columns), row = self.shapes[value], self.geometries[value].row
        width, vectors = self._vectors_of(value)
        place = np.arange(width * vectors)
        inside = (place % row < columns) & (place // row < height)
        return self.address(np.where(inside, -1, 0).astype(np.int32))

    def _cut_apart(self, node: Node) -> Value:
        """The value that a node reads at stride 1; it is made now, if it is not there."""
        step = node.window.stride[0]
        to = ("split", node.x, step)
        if step == 1 or to in self._split:
            return node.x if step == 1 else to
        self._split.add(to)
        (channels, _, columns), (_, rows, width) = self.shapes[node.x], self.shapes[to]
        vectors = -(-width // self.width)
        place = step * np.arange(vectors * self.width)
        lanes = [np.where(place + part < columns, -1, 0) for part in range(step)]
        x, y = self.geometries[node.x], self.geometries[to]
        self.call(
            self.forward, compiled(generate.split_kernel, width=self.width, step=step),
            generate.SPLIT_JOB, self.by_channel([1] * channels), x=("value", node.x),
            y=("value", to), lanes=self.address(np.array(lanes, np.int32)), rows=rows,
            vectors=vectors, stride_x=4 * x.channel, stride_y=4 * y.channel, row_x=4 * x.row,
            row_y=4 * y.row,
        )  # fmt: skip
        return to

    def _shifts(self, window: Window, taps: NDArray[np.int32], at: Geometry) -> NDArray[np.int64]:
        """Floats from a pixel of an input's first map to where each tap reads."""
        down, across = np.divmod(taps, window.kernel[1])
        step, found = window.stride[0], np.zeros(len(taps), np.int64)
        for axis, tap, place_stride, part_stride in (
            (0, down, at.row, step * at.channel), (1, across, 1, at.channel),
        ):  # fmt: skip
            kernel = range(window.kernel[axis])
            place = np.array([_place(window, axis, number) for number in kernel], np.int64)
            part = np.array([_part(window, axis, number) for number in kernel], np.int64)
            found += place[tap] * place_stride + part[tap] * part_stride
        return found

    def _block(self, node: Map, x: Value) -> int:
        """Input channels at a time: so many that what a tile reads of them fits the first cache."""
        weights, channels = node.weights, self.shapes[node.x][0]
        width, vectors = self._vectors_of(node.y)
        at = self.geometries[x]
        reach = min(min(vectors, self._most) * width + 2 * at.row + 16, at.channel)
        block = max(1, CACHE // (4 * reach * node.window.stride[0] ** 2))
        enough = len(weights.values) * block >= ENOUGH * len(weights.bias) * channels
        return block if enough and block < channels else max(1, channels)

    def _map(self, node: Map, x: Value) -> None:
        weights, at, maps = node.weights, self.geometries[x], node.window.stride[0] ** 2
        outputs, inputs = self.shapes[node.y][0], weights.inputs.astype(np.int64)
        offsets = inputs * maps * at.channel + self._shifts(node.window, weights.taps, at)
        block = self._block(node, x)
        table = self.table(
            weights, offsets, rows=weights.outputs, columns=weights.inputs, outputs=outputs,
            segments=1, block=block,
        )  # fmt: skip
        blocks = (len(table.rows) - 1) // outputs
        fields, lanes = self.where(table), self._lanes(node.y)
        work = np.bincount(weights.outputs, minlength=outputs)
        pieces = self._pieces(node.y, self._most)
        pixels = at.size + self.geometries[node.y].size
        shares = self._shares(work, pieces, apart=4 * pixels > 6 * len(weights.values))
        for (kind, places, last), share in zip(pieces, shares, strict=True):
            function = compiled(
                generate.map_kernel, kind, width=self._vectors_of(node.y)[0], unit=4,
                unroll=unrolled(len(kind.reads)), short=table.offsets.itemsize == 2,
                residual=node.residual is not None, mask=False,
                lanes=True,
            )  # fmt: skip
            self.call(
                self.forward, function, generate.MAP_JOB, share,
                scratch=outputs * len(kind.reads) * self.width if blocks > 1 else 0,
                meet=last, x=("value", x), y=("value", node.y),
                residual=0 if node.residual is None else ("value", node.residual), lanes=lanes,
                tiles=self.from_first(places, table, 4), blocks=blocks, outputs=outputs,
                floor=floor(node),
                stride=4 * self.geometries[node.y].channel, **fields,
            )  # fmt: skip

    def _pool(self, node: MaxPool, x: Value) -> None:
        at, window = self.geometries[x], node.window
        every = np.arange(window.kernel[0] * window.kernel[1], dtype=np.int32)
        taps = tuple(int(shift) for shift in self._shifts(window, every, at))
        lanes, work = self._lanes(node.y), [1] * self.shapes[node.x][0]
        pieces = self._pieces(node.y, 8)
        shares = self._shares(work, pieces, apart=True)
        for (kind, places, last), share in zip(pieces, shares, strict=True):
            all_taps = TileKind(
                kind.reads, kind.writes, ((0, len(taps), kind.runs[0][2]),), len(taps)
            )
            function = compiled(
                generate.pool_kernel, all_taps, taps, width=self._vectors_of(node.y)[0], unit=4,
                lanes=True,
            )  # fmt: skip
            self.call(
                self.forward, function, generate.POOL_JOB, share,
                meet=last, x=("value", x), y=("value", node.y), lanes=lanes,
                tiles=self.address(places), stride_x=4 * at.channel * window.stride[0] ** 2,
                stride_y=4 * self.geometries[node.y].channel,
            )  # fmt: skip

    def _rows(self, node: Map) -> None:
        """A map to one pixel; weights that read in the padding are left out."""
        weights, window, at = node.weights, node.window, self.geometries[node.x]
        (_, height, columns), outputs = self.shapes[node.x], self.shapes[node.y][0]
        down, across = np.divmod(weights.taps, window.kernel[1])
        row = down * window.dilation[0] - window.padding[0]
        column = across * window.dilation[1] - window.padding[1]
        offsets = 4 * (weights.inputs.astype(np.int64) * at.channel + row * at.row + column)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < columns)
        kept = np.flatnonzero(inside)
        kept = kept[np.lexsort((offsets[kept], weights.outputs[kept]))]
        counts = np.bincount(weights.outputs[kept], minlength=outputs)
        starts = np.zeros(outputs + 1, np.int32)
        np.cumsum(-(-counts // self.width) * self.width, out=starts[1:])
        before = np.cumsum(counts) - counts
        outputs_of = weights.outputs[kept]
        spot = starts[outputs_of] + np.arange(len(kept)) - before[outputs_of]
        order = np.full(starts[-1], -1, np.int64)
        order[spot] = kept
        zero = checked(np.array([4 * (at.size - at.start - 1)]))  # none writes there
        places = np.full(starts[-1], zero, np.int32)
        places[spot] = checked(offsets)[kept]
        values, bias = (np.zeros(count, np.float32) for count in (starts[-1], outputs))
        table = Table(values, places, starts, bias, order, weights)
        self.tables.append(table)
        added = node.residual is not None
        self.call(
            self.forward, compiled(generate.rows_kernel, width=self.width, residual=added),
            generate.ROWS_JOB, self.by_channel(counts), x=("value", node.x), y=("value", node.y),
            residual=("value", node.residual) if added else 0, floor=floor(node),
            **self.where(table),
        )  # fmt: skip


def _place(window: Window, axis: int, tap: int) -> int:
    """Pixels from an output to where a tap reads, in the maps that a stride cuts the input into."""
    return (tap * window.dilation[axis] - window.padding[axis]) // window.stride[axis]


def _part(window: Window, axis: int, tap: int) -> int:
    """The one of those maps where a tap reads."""
    return (tap * window.dilation[axis] - window.padding[axis]) % window.stride[axis]
