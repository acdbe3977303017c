"""The layout for many images: a vector is one pixel of as many images as it has floats.

Taps that would read in the padding are left out, for each tile's place; large maps have zeros
around them instead, for that is faster there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import generate, jit
from .lower import Lowered, Map, MaxPool, Shape, Weights, diagonal
from .plan import (
    IMAGES,
    Buffer,
    Geometry,
    Plan,
    Share,
    Step,
    Value,
    compiled,
    floor,
    unrolled,
)
from .tiles import Pixel, TileKind, Window, tiles

CACHE = 40 * 2**10
"""Bytes that a tile's pixels of a block of input channels take: they stay in the first cache."""
ENOUGH = 10
"""Weights of an output in a block, on average, from which blocks pay."""
NEAR = 2**19
"""Bytes of a value up to which it is near anyway, in the second cache."""
MOST_AHEAD = 64
"""Pixels of the next tile that are asked for, at most."""
LARGE = 576
"""Pixels of a map from which on it has zeros around it: more is computed, without branches."""
MOST_ZEROS = 4
"""Pixels that a map with zeros around it takes, at most, for each of its own."""
_APART = 6  # vectors between channels of large maps, which else would share lines of the cache


@dataclass(frozen=True)
class Sums:
    """Where the gradients of an operation's kept weights are summed up.

    Attributes:
        operation: its number.
        count: of weights.
    """

    operation: int
    count: int


class ImagesPlan(Plan):
    """The calls for one group of images.

    Args:
        network: what is computed.
        team: threads that compute it together.
        backward: plan the way back, too; the gradients of kept weights with it if ``weights``.
    """

    def __init__(
        self, network: Lowered, team: int, *, backward: bool = False, weights: bool = False
    ) -> None:
        super().__init__(network, team)
        self._most = 16 if jit.registers() >= 32 else 12
        self._bytes = 4 * self.width
        self.orders: dict[int, NDArray[np.int64]] = {}
        self._padding = self._paddings(backward)
        for value, shape in self.shapes.items():
            self.geometries[value] = self._geometry(shape, self._padding[value])
        self._pooled = {} if backward else self._poolings()
        if not backward:
            self._take_turns()
        self._batch(self.forward, 0, "value", gather=True)
        for node in network.nodes:
            if isinstance(node, Map):
                self._map(node)
            elif node not in self._pooled.values():
                self._pool(node)
        self._batch(self.forward, network.output, "value", gather=False)
        if backward:
            self._way_back(weights)

    def _paddings(self, backward: bool) -> dict[Value, int]:
        """Zeros around the maps of each value: as many as are read there, around large maps."""
        found = dict.fromkeys(self.shapes, 0)
        for node in self.network.nodes:
            ends = [(node.window, node.x, node.y)]
            if backward:
                ends.append((replace(node.window, back=True), node.y, node.x))
            for window, x, y in ends:
                found[x] = max(found[x], _beyond(window, self.shapes[x][1:], self.shapes[y][1:]))
        added = [
            (node.y, node.residual) for node in self.network.nodes
            if isinstance(node, Map) and node.residual is not None
        ]  # fmt: skip
        for value, (_, height, width) in self.shapes.items():
            with_zeros = (height + 2 * found[value]) * (width + 2 * found[value])
            most = MOST_ZEROS * height * width
            if height * width < LARGE or with_zeros > most or value in (0, self.network.output):
                found[value] = -1  # none, and none for what is added to it
        for _ in added:  # values that are added lie alike
            for one, other in added:
                least, most = sorted((found[one], found[other]))
                found[one] = found[other] = least if least < 0 else most
        return {value: max(0, padding) for value, padding in found.items()}

    def _geometry(self, shape: Shape, padding: int) -> Geometry:
        channels, height, width = shape
        row = width + 2 * padding
        start = padding * row + padding
        pixels = (height + 2 * padding) * row
        if pixels >= 256 and pixels % 16 == 0:
            pixels += _APART
        one = self.width
        return Geometry(
            pixels * one, row * one, one, start * one, (channels * pixels + start) * one
        )

    def _poolings(self) -> dict[Value, MaxPool]:
        """Poolings of two by two that the map before them does, by that map's value."""
        found: dict[Value, MaxPool] = {}
        for node in self.network.nodes:
            if not isinstance(node, MaxPool) or self.network.uses(node.x) != 1:
                continue
            _, height, width = self.shapes[node.x]
            if node.window != Window((2, 2), (2, 2)) or height % 2 or width % 2:
                continue
            makers = [n for n in self.network.nodes if isinstance(n, Map) and n.y == node.x]
            if makers and makers[0].residual is None:
                found[node.x] = node
        return found

    def _take_turns(self) -> None:
        """Let values share buffers: one is free when the last node has read what it held."""
        last: dict[Value, int] = {self.network.output: len(self.network.nodes)}
        for number, node in enumerate(self.network.nodes):
            for value in (node.x, getattr(node, "residual", None)):
                last[value] = max(last.get(value, 0), number)

        def alike(value: Value) -> tuple[Shape, int] | None:
            """What takes turns: zeros around maps are written by none, so only like maps do."""
            return (self.shapes[value], self._padding[value]) if self._padding[value] else None

        free: dict[tuple[Shape, int] | None, list[int]] = {}
        held, sizes, turns = {0: 0}, [self.geometries[0].size], {0: 0}
        for number, node in enumerate(self.network.nodes):
            y = self._pooled[node.y].y if node.y in self._pooled else node.y
            if y not in turns:
                at = self.geometries[y]
                unused = free.setdefault(alike(y), [])
                slot = unused.pop() if unused else len(sizes)
                sizes += [0] * (slot == len(sizes))
                held[y] = turns[y] = slot
                sizes[slot] = max(sizes[slot], at.size)
            for value in [value for value in held if last.get(value, -1) <= number]:
                free.setdefault(alike(value), []).append(held.pop(value))
        self.slots = {value: (slot, sizes[slot]) for value, slot in turns.items()}

    def _batch(self, steps: list[Step], value: Value, kind: str, *, gather: bool) -> None:
        """Take a batch apart into vectors, or put it together."""
        (channels, height, width), at = self.shapes[value], self.geometries[value]
        image, pixels = 4 * channels * height * width, height * width
        if at.channel == pixels * self.width:  # all channels are one run
            channels, pixels = 1, channels * pixels
        x, y = (IMAGES, (kind, value)) if gather else ((kind, value), IMAGES)
        function = compiled(generate.batch_kernel, width=self.width, gather=gather)
        self.call(
            steps, function, generate.BATCH_JOB, self.by_channel([1] * channels),
            x=x, y=y, pixels=pixels, image=image, stride=4 * at.channel,
        )  # fmt: skip

    def _tiles(
        self, window: Window, x: Value, y: Value, *, most: int | None = None,
        to: Value | None = None,
    ) -> Iterator[tuple[TileKind, NDArray[np.int64], bool]]:  # fmt: skip
        """Kinds of tiles; their places, in bytes; True with the last kind.

        Args:
            window: what meets what.
            x: what is read.
            y: what is computed.
            most: outputs of a tile.
            to: what is written, where that is the largest of two by two.
        """
        sizes = self.shapes[x][1:], self.shapes[y][1:]
        written = y if to is None else to
        row_x, row_y = (
            at.row // self.width for at in (self.geometries[x], self.geometries[written])
        )
        found = tiles(
            window, *sizes, rows=(row_x, row_y), most=most or self._most, pooled=to is not None,
            padded=most is None and 0 < self._padding[x] >= _beyond(window, *sizes),
        )  # fmt: skip
        for number, (kind, places) in enumerate(found.items()):
            array = np.zeros((len(places), 3), np.int64)
            array[:, :2] = np.array(places) * self._bytes
            yield kind, array, number == len(found) - 1

    def _offsets(self, window: Window, taps: NDArray[np.int32], at: Geometry) -> NDArray[np.int64]:
        """Pixels from a tile's first to where each tap reads."""
        down, across = np.divmod(taps, window.kernel[1])
        rows, columns = (
            np.array([window.place(axis, tap) for tap in range(window.kernel[axis])], np.int64)
            for axis in (0, 1)
        )
        return (rows[down] * at.row + columns[across] * at.pixel) // at.pixel

    def _map(self, node: Map) -> None:
        pool = self._pooled.get(node.y)
        self._linear(
            self.forward, node.window, node.weights, ("value", node.x),
            ("value", pool.y if pool else node.y), map_of=node.y, floor=floor(node),
            added=None if node.residual is None else ("value", node.residual),
        )  # fmt: skip

    def _linear(
        self, steps: list[Step], window: Window, weights: Weights, x: Buffer, y: Buffer, *,
        map_of: Value, floor: int, added: Buffer | None = None, shown: Buffer | None = None,
    ) -> None:  # fmt: skip
        """A sparse map, or the way back through one.

        Args:
            steps: gets the calls.
            window: of the map; ``window.back`` on the way back.
            weights: of the map.
            x: what is read.
            y: what is written.
            map_of: the value whose shape the outputs have; where y is another, y is the largest of
                two by two of them.
            floor: bits of the least output.
            added: a buffer, laid out like the outputs, that is added to them.
            shown: a buffer, laid out like the outputs, above zero where they are kept.
        """
        pair = weights.outputs, weights.inputs
        rows, columns = pair[::-1] if window.back else pair
        (inputs, *_), (outputs, height, width) = self.shapes[x[1]], self.shapes[map_of]
        at, segments = self.geometries[x[1]], window.kernel[0] * window.kernel[1]
        offsets = at.channel // at.pixel * columns.astype(np.int64)
        offsets += self._offsets(window, weights.taps, at)
        found = list(self._tiles(window, x[1], map_of, to=None if y[1] == map_of else y[1]))
        taps = self._taps(window, at)
        reached = [_reached(tile, taps) for tile, _, _ in found]
        block = max(1, CACHE // (self._bytes * max(1, *(len(pixels) for pixels in reached))))
        pays = height * width > 4 and len(rows) * block >= ENOUGH * outputs * inputs
        table = self.table(
            weights, offsets, rows=rows, columns=columns, outputs=outputs, segments=segments,
            block=block if pays and block < inputs else max(inputs, 1), biased=not window.back,
        )  # fmt: skip
        fields = self.where(table)
        blocks = (len(table.rows) - 1) // (outputs * segments)
        work = np.bincount(rows, minlength=outputs)
        for (tile, places, last), pixels in zip(found, reached, strict=True):
            ahead = pixels if 4 * at.size > NEAR and len(pixels) <= MOST_AHEAD else ()
            function = compiled(
                generate.map_kernel, tile, width=self.width, unit=self._bytes,
                unroll=unrolled(len(tile.reads)), short=table.offsets.itemsize == 2,
                residual=added is not None, mask=shown is not None, lanes=False, ahead=ahead,
            )  # fmt: skip
            places[:, 2] = np.roll(places[:, 0], -1)
            self.call(
                steps, function, generate.MAP_JOB, self.by_tile(work, len(places)),
                scratch=outputs * len(tile.reads) * self.width if blocks > 1 else 0, meet=last,
                x=x, y=y, residual=added or 0, mask=shown or 0,
                tiles=self.from_first(places, table, self._bytes),
                blocks=blocks, outputs=outputs, floor=floor, inputs=inputs, ahead=4 * at.channel,
                stride=4 * self.geometries[y[1]].channel, **fields,
            )  # fmt: skip

    def _taps(self, window: Window, at: Geometry) -> tuple[int, ...]:
        """Pixels from a tile's first to where each tap reads."""
        taps = np.arange(window.kernel[0] * window.kernel[1], dtype=np.int32)
        return tuple(int(offset) for offset in self._offsets(window, taps, at))

    def _pool(self, node: MaxPool) -> None:
        x, y = self.geometries[node.x], self.geometries[node.y]
        work = np.ones(self.shapes[node.x][0], np.int64)
        for kind, places, last in self._tiles(node.window, node.x, node.y):
            function = compiled(
                generate.pool_kernel, kind, self._taps(node.window, x), width=self.width,
                unit=self._bytes, lanes=False,
            )  # fmt: skip
            self.call(
                self.forward, function, generate.POOL_JOB, self.by_tile(work, len(places)),
                meet=last, x=("value", node.x), y=("value", node.y), tiles=self.address(places),
                stride_x=4 * x.channel, stride_y=4 * y.channel,
            )  # fmt: skip

    def _way_back(self, weights: bool) -> None:
        """Gradients, from the output's to the batch's; a value with two readers gets a sum.

        A gradient of what a ReLU gave is kept where that is above zero, by whatever writes it.
        """
        network, least = self.network, int(np.float32(-np.inf).view(np.uint32))
        relus = {node.y for node in network.nodes if isinstance(node, Map) and node.relu}
        begun: set[Value] = set()

        def through(window: Window, source: Weights, y: Value, x: Value) -> None:
            self._linear(
                self.backward, replace(window, back=True), source, ("gradient", y),
                ("gradient", x), map_of=x, floor=least,
                added=("gradient", x) if x in begun else None,
                shown=("value", x) if x in relus else None,
            )  # fmt: skip
            begun.add(x)

        output = network.output
        self._batch(self.backward, output, "gradient", gather=True)
        if output in relus:
            through(Window((1, 1)), diagonal(self.shapes[output][0]), output, output)
        for node in reversed(network.nodes):
            if isinstance(node, MaxPool):
                self._unpool(node, keep=node.x in begun, masked=node.x in relus)
                begun.add(node.x)
                continue
            if weights and node.weights.operation is not None:
                self._sums(node, node.weights.operation)
            through(node.window, node.weights, node.y, node.x)
            if node.residual is not None:
                same = diagonal(self.shapes[node.residual][0])
                through(Window((1, 1)), same, node.y, node.residual)
        self._batch(self.backward, 0, "gradient", gather=False)

    def _unpool(self, node: MaxPool, *, keep: bool, masked: bool) -> None:
        x, y = self.geometries[node.x], self.geometries[node.y]
        kinds, arrays, start = [], [], 0
        for kind, places, _ in self._tiles(node.window, node.x, node.y, most=1):
            kinds.append((kind, start, start + len(places)))
            arrays.append(places)
            start += len(places)
        function = compiled(
            generate.unpool_kernel, tuple(kinds), self._taps(node.window, x), width=self.width
        )
        self.call(
            self.backward, function, generate.UNPOOL_JOB,
            self.by_channel([1] * self.shapes[node.x][0]), x=("value", node.x),
            y=("value", node.y), gradient_y=("gradient", node.y),
            gradient_x=("gradient", node.x), tiles=self.address(np.concatenate(arrays)),
            stride_x=4 * x.channel, stride_y=4 * y.channel, pixels=x.channel // self.width,
            keep=int(keep), masked=int(masked),
        )  # fmt: skip

    def _sums(self, node: Map, operation: int) -> None:
        """The gradients of a map's kept weights."""
        weights, at = node.weights, self.geometries[node.x]
        outputs, segments = self.shapes[node.y][0], node.window.kernel[0] * node.window.kernel[1]
        offsets = at.channel // at.pixel * weights.inputs.astype(np.int64)
        offsets += self._offsets(node.window, weights.taps, at)
        table = self.table(
            weights, offsets, rows=weights.outputs, columns=weights.inputs, outputs=outputs,
            segments=segments, block=max(self.shapes[node.x][0], 1), biased=False,
        )  # fmt: skip
        self.orders[operation] = table.order
        fields = self.where(table) | {"bias": ("sums", Sums(operation, len(table.order)))}
        work = np.bincount(weights.outputs, minlength=outputs)
        shares: list[Share]
        for tile, places, last in self._tiles(node.window, node.x, node.y):
            function = compiled(
                generate.weight_gradient_kernel,
                tile,
                width=self.width,
                unit=self._bytes,
                short=table.offsets.itemsize == 2,
            )
            shares = self.by_channel(work, len(places))
            self.call(
                self.backward, function, generate.MAP_JOB, shares, meet=last,
                x=("value", node.x), y=("gradient", node.y),
                tiles=self.from_first(places, table, self._bytes),
                stride=4 * self.geometries[node.y].channel, **fields,
            )  # fmt: skip


def _beyond(window: Window, inside: Pixel, outside: Pixel) -> int:
    """Pixels beyond an edge of the input that taps read, at most."""
    found = [0]
    for axis in (0, 1):
        step = window.stride[axis] if window.back else 1
        for tap in range(window.kernel[axis]):
            place = window.place(axis, tap)
            first = window.phase(axis, tap) if window.back else 0
            count = len(range(first, outside[axis], step))
            scale = 1 if window.back else window.stride[axis]
            if count:
                found += [-place, place + (count - 1) * scale - inside[axis] + 1]
    return max(found)


def _reached(tile: TileKind, taps: tuple[int, ...]) -> tuple[int, ...]:
    """The pixels that a tile reads, counted from its first."""
    found = {
        taps[tap] + tile.reads[i]
        for first, last, active in tile.runs for tap in range(first, last) for i in active
    }  # fmt: skip
    return tuple(sorted(found))
