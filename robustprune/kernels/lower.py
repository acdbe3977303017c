"""From operations to the two things that kernels do: sparse linear maps, and maxima.

Convolutions, linear layers, norms, sums and averages are all maps with few weights; a ReLU or a sum
after a map becomes a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .operations import Array, Operation, shapes
from .tiles import Window

Shape = tuple[int, int, int]
Integers = NDArray[np.int32]


class Unsupported(ValueError):  # noqa: N818 - see jit.Unavailable
    """An operation, or a size, that the kernels do not take; the message names it."""


@dataclass(eq=False)
class Weights:
    """The kept weights of a map, in the order of their positions in the dense array.

    Attributes:
        outputs, inputs, taps: where each stands: ``(n,)``.
        values: float32, ``(n,)``.
        bias: of each output channel.
        operation: the number of the operation that they are from, or None for fixed ones.
        where: their positions in its flattened weight.
        shape: of that weight.
    """

    outputs: Integers
    inputs: Integers
    taps: Integers
    values: Array
    bias: Array
    operation: int | None = None
    where: NDArray[np.int64] | None = None
    shape: tuple[int, ...] = ()


@dataclass(eq=False)
class Map:
    """``y = W x + bias + residual``, with the floor at 0 if ``relu``."""

    x: int
    y: int
    window: Window
    weights: Weights
    residual: int | None = None
    relu: bool = False


@dataclass(eq=False)
class MaxPool:
    """Largest values of windows."""

    x: int
    y: int
    window: Window


Node = Map | MaxPool


@dataclass
class Lowered:
    """A network as nodes, in order.

    Attributes:
        nodes: what is computed.
        shapes: channels, rows and columns of each value; a vector has one row and one column.
        output: the last value.
        vector: True if the output is ``(N, K)``.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[int, Shape] = field(default_factory=dict)
    output: int = 0
    vector: bool = False

    def uses(self, value: int) -> int:
        """Number of readers of a value."""
        read = [node.x for node in self.nodes]
        read += [
            node.residual
            for node in self.nodes
            if isinstance(node, Map) and node.residual is not None
        ]
        return read.count(value) + (value == self.output)


def lowered(operations: Sequence[Operation], shape: tuple[int, ...]) -> Lowered:
    """The nodes of a network for images of one shape, ``(C, H, W)`` or ``(F,)``.

    Operations that the output does not need are left out.

    Raises:
        Unsupported: there are no kernels for it, or it is not as `operations` says.
    """
    try:
        shapes(operations, shape)  # kernels trust it: what does not fit would read anything
    except ValueError as error:
        raise Unsupported(str(error)) from None
    found = Lowered()
    same = {0: 0}  # values that flatten left as they are
    flat = {0: len(shape) == 1}
    found.shapes[0] = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)
    readers = [0] * (len(operations) + 1)
    readers[len(operations)] = 1
    for number in reversed(range(len(operations))):
        for value in operations[number].inputs if readers[number + 1] else ():
            readers[value] += 1
    maker: dict[int, Map] = {}
    for number, operation in enumerate(operations):
        if not readers[number + 1]:
            continue
        y, inputs = number + 1, [same[value] for value in operation.inputs]
        channels, height, width = found.shapes[inputs[0]]
        alone = readers[operation.inputs[0]] == 1
        same[y], flat[y] = y, flat[operation.inputs[0]]
        if operation.kind == "flatten":
            same[y], flat[y] = inputs[0], True
            if not alone:
                maker.pop(inputs[0], None)
            continue
        if operation.kind == "relu" and alone and (one := maker.get(inputs[0])) and not one.relu:
            one.relu, one.y = True, y
            found.shapes[y] = found.shapes[inputs[0]]
            maker[y] = one
            continue
        if operation.kind == "add":
            if found.shapes[inputs[0]] != found.shapes[inputs[1]]:
                raise Unsupported("add of a map that was made flat and another vector")
            one = _sum(found, maker, inputs, [readers[value] == 1 for value in operation.inputs], y)
            found.shapes[y] = (channels, height, width)
            maker[y] = one
            continue
        if operation.kind == "max_pool":
            options = operation.options
            kernel, stride, padding = (
                _pair(options[key]) for key in ("kernel", "stride", "padding")
            )
            window = Window(kernel, stride, padding)
            if any(window.padding) and not ((one := maker.get(inputs[0])) and one.relu):
                raise Unsupported("max_pool with padding, of values that may be below zero")
            found.nodes.append(MaxPool(inputs[0], y, window))
        else:
            made = _map(operation, number, inputs[0], y, (channels, height, width), flat[y])
            found.nodes.append(made)
            maker[y] = made
        node = found.nodes[-1]
        rows, columns = node.window.size(height, width)
        if rows < 1 or columns < 1:
            raise Unsupported(f"{operation.kind} whose window is larger than its input")
        outputs = len(node.weights.bias) if isinstance(node, Map) else channels
        found.shapes[y] = (outputs, rows, columns)
        if operation.kind == "linear":
            flat[y] = True
    if not found.nodes:
        raise Unsupported("a network of no operation that computes anything")
    found.output = same[len(operations)]
    if found.output == 0:
        raise Unsupported("a network that gives back its images")
    found.vector = flat[len(operations)]
    return found


def _sum(
    found: Lowered, maker: dict[int, Map], inputs: list[int], alone: list[bool], y: int
) -> Map:
    """Let the map that was computed last add the other value, or add a map that does."""
    one, other = inputs
    if one != other:
        for value, rest, free in ((one, other, alone[0]), (other, one, alone[1])):
            made = maker.get(value)
            if made is None or not free or made.relu or made.residual is not None:
                continue
            earlier = [node.y for node in found.nodes[: found.nodes.index(made)]]
            if rest == 0 or rest in earlier:
                made.residual, made.y = rest, y
                return made
    made = Map(one, y, Window((1, 1)), diagonal(found.shapes[one][0]), residual=other)
    found.nodes.append(made)
    return made


def _map(operation: Operation, number: int, x: int, y: int, shape: Shape, flat: bool) -> Map:
    channels, height, width = shape
    options, arrays = operation.options, operation.arrays
    if operation.kind == "convolution":
        weight, groups = arrays["weight"], int(options["groups"])
        stride, padding, dilation = (
            _pair(options[key]) for key in ("stride", "padding", "dilation")
        )
        window = Window((weight.shape[2], weight.shape[3]), stride, padding, dilation)
        kept = _kept(weight, arrays["bias"], number, groups, weight.shape)
        return Map(x, y, window, kept)
    if operation.kind == "linear":
        weight = arrays["weight"].reshape(-1, channels, height, width)
        kept = _kept(weight, arrays["bias"], number, 1, arrays["weight"].shape)
        return Map(x, y, Window((height, width)), kept)
    if operation.kind in ("affine", "relu"):
        if operation.kind == "affine" and len(arrays["scale"]) != channels:
            raise Unsupported("affine with a number for each pixel")
        weights = diagonal(channels)
        if operation.kind == "affine":
            weights.values = np.array(arrays["scale"], np.float32)
            weights.bias = np.array(arrays["shift"], np.float32)
            weights.operation = number
        return Map(x, y, Window((1, 1)), weights, relu=operation.kind == "relu")
    if operation.kind == "average_pool":
        kernel, stride, padding = (_pair(options[key]) for key in ("kernel", "stride", "padding"))
        if any(padding) and not options["count_include_pad"]:
            raise Unsupported("average_pool that does not count its padding")
        taps = kernel[0] * kernel[1]
        each = np.repeat(np.arange(channels, dtype=np.int32), taps)
        values = np.full(len(each), 1 / taps, np.float32)
        places = np.tile(np.arange(taps, dtype=np.int32), channels)
        weights = Weights(each, each, places, values, np.zeros(channels, np.float32))
        return Map(x, y, Window(kernel, stride, padding), weights)
    raise Unsupported(operation.kind)


def _kept(weight: Array, bias: Array, number: int, groups: int, shape: tuple[int, ...]) -> Weights:
    """The non-zeros of a convolution's weight ``(O, C / groups, kh, kw)``."""
    each = weight.shape[0] // groups
    flat = np.ascontiguousarray(weight, np.float32).reshape(-1)
    where = np.flatnonzero(flat)
    outputs, inputs, rows, columns = np.unravel_index(where, weight.shape)
    inputs = inputs + outputs // each * weight.shape[1]
    taps = rows * weight.shape[3] + columns
    return Weights(
        outputs.astype(np.int32),
        inputs.astype(np.int32),
        taps.astype(np.int32),
        flat[where],
        np.array(bias, np.float32),
        operation=number,
        where=where,
        shape=shape,
    )


def diagonal(channels: int) -> Weights:
    """The weights that leave a map as it is."""
    each = np.arange(channels, dtype=np.int32)
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return Weights(each, each, np.zeros_like(each), ones, zeros)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)
