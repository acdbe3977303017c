"""Tiles: pieces of an output map that a kernel keeps in registers, and the taps that reach them.

A kernel's tap is one position of its window. Along each axis an output pixel and a tap meet at one
input pixel, or, in the padding and between the pixels of a stride, at none: nothing is computed
there. Tiles that are alike in what their taps reach share a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

Pixel = tuple[int, int]
Run = tuple[int, int, tuple[int, ...]]
"""Taps from, to; the outputs that they reach."""
Pool = tuple[tuple[int, ...], int]
"""Outputs of which the largest is written; where, in pixels."""


@dataclass(frozen=True)
class Window:
    """How output pixels and taps meet input pixels; two numbers each: rows, columns.

    Attributes:
        kernel: taps.
        stride: input pixels from one output pixel to the next.
        padding: zeros before the first input pixel.
        dilation: input pixels from one tap to the next.
        back: True for the way back: from output pixels to input pixels.
    """

    kernel: Pixel
    stride: Pixel = (1, 1)
    padding: Pixel = (0, 0)
    dilation: Pixel = (1, 1)
    back: bool = False

    @property
    def taps(self) -> list[Pixel]:
        """All taps, row by row."""
        return [(row, column) for row in range(self.kernel[0]) for column in range(self.kernel[1])]

    def size(self, height: int, width: int) -> Pixel:
        """Output pixels along both axes."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        rows, columns = (
            (n + 2 * p - span) // s + 1
            for n, p, span, s in zip((height, width), self.padding, spans, self.stride, strict=True)
        )
        return rows, columns

    def place(self, axis: int, tap: int) -> int:
        """The number of pixels from a tile's first pixel, scaled, to where a tap reads.

        On the way back it holds for tiles whose first pixel is a multiple of the stride plus
        `phase` of this tap, and counts from that multiple.
        """
        shift = tap * self.dilation[axis] - self.padding[axis]
        if not self.back:
            return shift
        return (self.phase(axis, tap) - shift) // self.stride[axis]

    def phase(self, axis: int, tap: int) -> int:
        """On the way back: which pixels modulo the stride a tap reaches."""
        return (tap * self.dilation[axis] - self.padding[axis]) % self.stride[axis]

    def meets(self, axis: int, pixel: int, tap: int, inside: Pixel | None) -> bool:
        """True if there is an input pixel where an output pixel's tap reads.

        Args:
            axis: of rows or of columns.
            pixel: the output.
            tap: of the window.
            inside: size of the input; None: it has no end.
        """
        shift = tap * self.dilation[axis] - self.padding[axis]
        if not self.back:
            return inside is None or 0 <= pixel * self.stride[axis] + shift < inside[axis]
        place, rest = divmod(pixel - shift, self.stride[axis])
        return rest == 0 and (inside is None or 0 <= place < inside[axis])


@dataclass(frozen=True)
class TileKind:
    """What a kernel is compiled for; offsets count pixels.

    Attributes:
        reads: for each output, its offset in the input.
        writes: for each output, its offset in the output.
        runs: stretches of taps that reach the same outputs; each tap is a segment of a row.
        segments: of a row.
        pools: what is written; nothing if each output is.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    runs: tuple[Run, ...]
    segments: int
    pools: tuple[Pool, ...] = ()


Places = list[tuple[int, int]]
"""Offsets of a tile's first pixel in the input and in the output, in pixels."""


def cover(size: int, most: int) -> list[tuple[int, int]]:
    """Starts and lengths of nearly equal pieces."""
    count = -(-size // most)
    base, more = divmod(size, count)
    lengths = [base + (number < more) for number in range(count)]
    return [(sum(lengths[:number]), length) for number, length in enumerate(lengths)]


def tile_shape(height: int, width: int, most: int) -> Pixel:
    """Rows and columns of a tile of at most so many outputs: few tiles, nearly square ones."""
    choices = [(rows, min(most // rows, width)) for rows in range(1, min(height, most) + 1)]
    choices = [(rows, columns) for rows, columns in choices if columns]

    def cost(shape: Pixel) -> tuple[int, int]:
        rows, columns = shape
        return -(-height // rows) * -(-width // columns), abs(rows - columns)

    return min(choices, key=cost)


def tiles(
    window: Window,
    inside: Pixel,
    outside: Pixel,
    *,
    rows: Pixel,
    most: int,
    pooled: bool = False,
    padded: bool = False,
) -> dict[TileKind, Places]:
    """Cut an output map into tiles, and sort them by kind.

    Args:
        window: what meets what.
        inside: rows and columns of the input.
        outside: rows and columns of the output.
        rows: pixels from one row to the next, of the input and of what is written.
        most: outputs of a tile.
        padded: True if there are zeros wherever a tap reads outside of the input.
        pooled: True for tiles that write the largest of two by two outputs.
    """
    found: dict[TileKind, Places] = {}
    # on the way back, outputs a stride apart are met by the same taps
    apart = window.stride if window.back else (1, 1)
    scale = (1, 1) if window.back else window.stride
    phases = [range(min(apart[axis], outside[axis])) for axis in (0, 1)]
    for first in [(row, column) for row in phases[0] for column in phases[1]]:
        lines = [len(range(first[axis], outside[axis], apart[axis])) for axis in (0, 1)]
        shape = tile_shape(lines[0], lines[1], most)
        if pooled and (shape[0] % 2 or shape[1] % 2):
            shape = (2, most // 4 * 2)
        for top, height in _pieces(lines[0], shape[0], pooled):
            for left, width in _pieces(lines[1], shape[1], pooled):
                down = [(row, first[0] + apart[0] * (top + row)) for row in range(height)]
                columns = [
                    (column, first[1] + apart[1] * (left + column)) for column in range(width)
                ]
                outputs = [(row, column) for row in down for column in columns]
                kind = TileKind(
                    tuple(row * scale[0] * rows[0] + column * scale[1]
                          for (row, _), (column, _) in outputs),
                    tuple(row * apart[0] * rows[1] + column * apart[1]
                          for (row, _), (column, _) in outputs),
                    _runs(window, None if padded else inside,
                          [(row, column) for (_, row), (_, column) in outputs]),
                    len(window.taps),
                    _pools(height, width, rows[1]) if pooled else (),
                )  # fmt: skip
                start = top * scale[0] * rows[0] + left * scale[1]
                end = down[0][1] * rows[1] + columns[0][1]
                if pooled:
                    end = top // 2 * rows[1] + left // 2
                found.setdefault(kind, []).append((start, end))
    return found


def _pieces(size: int, most: int, pooled: bool) -> list[tuple[int, int]]:
    if not pooled:
        return cover(size, most)
    return [(2 * start, 2 * length) for start, length in cover(size // 2, most // 2)]


def _pools(height: int, width: int, row: int) -> tuple[Pool, ...]:
    """Each two by two of a tile's outputs, and where their largest goes."""
    return tuple(
        (tuple((top + a) * width + left + b for a in (0, 1) for b in (0, 1)),
         top // 2 * row + left // 2)
        for top in range(0, height, 2) for left in range(0, width, 2)
    )  # fmt: skip


def _runs(window: Window, inside: Pixel | None, outputs: list[Pixel]) -> tuple[Run, ...]:
    """Stretches of taps that reach the same of these outputs; ``inside`` as in `Window.meets`."""
    runs: list[Run] = []
    for number, tap in enumerate(window.taps):
        reached = tuple(
            i for i, pixel in enumerate(outputs)
            if all(window.meets(axis, pixel[axis], tap[axis], inside) for axis in (0, 1))
        )  # fmt: skip
        if runs and runs[-1][1] == number and runs[-1][2] == reached:
            runs[-1] = (runs[-1][0], number + 1, reached)
        elif reached:
            runs.append((number, number + 1, reached))
    return tuple(runs)
