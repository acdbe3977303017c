"""Operations: the description of a network that the kernels take.

A network is a list of operations. Value 0 is the batch of images, operation number i (from 0) makes
value i + 1, and the output is the last operation's value: ``(N, K)`` or ``(N, C, H, W)``.

| kind | inputs | arrays | options |
| --- | --- | --- | --- |
| `convolution` | (C, H, W) | weight (O, C / groups, kh, kw), bias (O,) | stride, padding (zeros), dilation: [2]; groups |
| `linear` | (F,) | weight (O, F), bias (O,) | |
| `affine` | (C, …) | scale (C,), shift (C,) | |
| `relu` | any | | |
| `add` | two of one shape | | |
| `max_pool` | (C, H, W) | | kernel, stride, padding: [2] |
| `average_pool` | (C, H, W) | | kernel, stride, padding: [2]; count_include_pad |
| `flatten` | (C, H, W) -> (C · H · W,) | | |

Shapes are of one image. A weight is a dense array with zeros where it is pruned. `max_pool` takes
no zeros from its padding. Sizes are rounded down.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    Attributes:
        kind: one of the table.
        inputs: numbers of the values that it reads.
        options: as in the table; can be written as JSON.
        arrays: as in the table; float32.
    """

    kind: str
    inputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


class _Kind(NamedTuple):
    arrays: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    inputs: int = 1


_WINDOW = ("kernel", "stride", "padding")
_KINDS = {
    "convolution": _Kind(("weight", "bias"), ("stride", "padding", "dilation", "groups")),
    "linear": _Kind(("weight", "bias")),
    "affine": _Kind(("scale", "shift")),
    "relu": _Kind(),
    "add": _Kind(inputs=2),
    "max_pool": _Kind(options=_WINDOW),
    "average_pool": _Kind(options=(*_WINDOW, "count_include_pad")),
    "flatten": _Kind(),
}
_LARGEST = 2**16  # number among options


def shapes(operations: Sequence[Operation], shape: Shape) -> list[Shape]:
    """Shapes of all values of one image, the image's first; of arrays only shapes are looked at.

    Args:
        operations: anybody's.
        shape: of one image, (C, H, W) or (F,).

    Raises:
        ValueError: an operation is not as the table says, or does not fit its inputs.
    """
    if len(shape) not in (1, 3) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"images of shape {shape} are neither (C, H, W) nor (F,)")
    values = [tuple(shape)]
    for number, operation in enumerate(operations):
        try:
            _check(operation, len(values))
            values.append(_shape(operation, [values[place] for place in operation.inputs]))
        except ValueError as error:
            raise ValueError(f"operation {number} ({operation.kind!r:.40}): {error}") from None
    if len(values) == 1:
        raise ValueError("there are no operations")
    return values


def _check(operation: Operation, values: int) -> None:
    """Make sure that an operation has the inputs, options and arrays of its kind."""
    if not isinstance(operation.kind, str) or operation.kind not in _KINDS:
        raise ValueError(f"unknown kind; there are {', '.join(_KINDS)}")
    kind, options = _KINDS[operation.kind], operation.options
    if len(operation.inputs) != kind.inputs:
        raise ValueError(f"it has {len(operation.inputs)} inputs, not {kind.inputs}")
    if not all(_whole(place, 0) and place < values for place in operation.inputs):
        raise ValueError("its inputs are not values before it")
    for what, found, expected in (
        ("options", options, kind.options),
        ("arrays", operation.arrays, kind.arrays),
    ):
        if set(found) != set(expected):
            raise ValueError(f"its {what} are {_listed(found)}, not {_listed(expected)}")
    for name, value in options.items():
        if name == "count_include_pad":
            right = isinstance(value, bool)
        elif name == "groups":
            right = _whole(value, 1)
        else:
            lowest = 0 if name == "padding" else 1
            right = isinstance(value, list | tuple) and len(value) == 2
            right = right and all(_whole(size, lowest) for size in value)
        if not right:
            raise ValueError(f"its {name} is {value!r:.40}")


def _shape(operation: Operation, inputs: list[Shape]) -> Shape:
    """The shape of an operation's value."""
    x, options, kind = inputs[0], operation.options, operation.kind
    arrays = {name: tuple(array.shape) for name, array in operation.arrays.items()}
    if kind in ("convolution", "max_pool", "average_pool", "flatten") and len(x) != 3:
        raise ValueError(f"its input has shape {x}, not (C, H, W)")
    match kind:
        case "convolution":
            weight, groups = arrays["weight"], options["groups"]
            if len(weight) != 4 or weight[1] * groups != x[0] or weight[0] % groups:
                raise ValueError(f"weights of {weight} in {groups} groups do not take {x}")
            _agree(arrays["bias"], weight[:1])
            return (weight[0], *_sizes(x[1:], weight[2:], **_steps(options)))
        case "linear":
            weight = arrays["weight"]
            if len(weight) != 2 or weight[1:] != x:
                raise ValueError(f"weights of {weight} do not take {x}")
            _agree(arrays["bias"], weight[:1])
            return weight[:1]
        case "affine":
            for found in arrays.values():
                _agree(found, x[:1])
        case "add" if inputs[1] != x:
            raise ValueError(f"it adds {x} and {inputs[1]}")
        case "max_pool" | "average_pool":
            kernel = tuple(options["kernel"])
            if any(2 * pad > size for pad, size in zip(options["padding"], kernel, strict=True)):
                raise ValueError("its padding is wider than half its kernel")
            return (x[0], *_sizes(x[1:], kernel, **_steps(options)))
        case "flatten":
            return (math.prod(x),)
    return x


def _steps(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("stride", "padding", "dilation") if name in options}


def _sizes(
    sizes: Shape, kernel: Shape, *, stride: Shape, padding: Shape, dilation: Shape = (1, 1)
) -> Shape:
    """Height and width of what a window that moves over an image leaves of it."""
    found = []
    for size, extent, step, pad, gap in zip(sizes, kernel, stride, padding, dilation, strict=True):
        left = size + 2 * pad - gap * (extent - 1) - 1
        if extent < 1 or left < 0:
            raise ValueError(f"a kernel of {kernel} does not fit into {sizes}")
        found.append(left // step + 1)
    return tuple(found)


def _agree(found: Shape, expected: Shape) -> None:
    if found != expected or 0 in expected:
        raise ValueError(f"an array has shape {found}, not {expected}")


def _whole(value: object, lowest: int) -> bool:
    return type(value) is int and lowest <= value <= _LARGEST


def _listed(names: Any) -> str:
    return (
        ", ".join(sorted(str(n) if str(n).isidentifier() else repr(n) for n in names))[:80]
        or "none"
    )
