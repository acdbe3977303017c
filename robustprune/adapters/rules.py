"""Rules: which of auto-LiRPA 0.3's operators were compared with true minima, and are let through.

For many networks the library gives bounds that are none: it takes the first dilation for both, a
product of two parameters for a square. So an operator is refused unless it is in `RULES`, with the
attributes that it has there and for the kind of bound that is asked for. Attributes that the table
does not name are refused too, as are operators of other versions of the library that it does not
know. `benchmarks/soundness.py` makes the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Check = Callable[[Any], str]
"""The reason why a node is refused; empty if it is not."""

FAR = 400.0
"""Tanh and sigmoid are relaxed rightly up to here: the library cuts intervals at 500."""


class Rule(NamedTuple):
    """The attributes, and the operands, with which an operator is let through.

    Attributes:
        attributes: those that `interval` and `linear` know.
        interval: asked for every kind of bound.
        linear: asked for linear bounds besides; None if those were not compared, or are wrong.
        near: linear bounds are right only where the operand stays within `FAR` of 0, which is
            asked for whenever they are computed.
    """

    attributes: frozenset[str] = frozenset()
    interval: Check = lambda _: ""
    linear: Check | None = lambda _: ""
    near: bool = False


def reason(node: Any, *, linear: bool) -> str:
    """The reason why the bounds of a node that depends on the image may be none, or nothing."""
    kind = kind_of(node)
    rule = RULES.get(kind)
    if rule is None:
        return f"its bounds of {kind} are not known to be right"
    unknown = sorted(set(node.attr) - rule.attributes - {"device"})
    if unknown:
        return f"its bounds of {kind} with {unknown[0]!r} are not known to be right"
    if why := rule.interval(node):
        return why
    if not linear:
        return ""
    if rule.linear is None:
        return f"its linear bounds of {kind} are not known to be right"
    return rule.linear(node)


def kind_of(node: Any) -> str:
    """The operator's name."""
    return type(node).__name__.removeprefix("Bound")


def is_leaf(node: Any) -> bool:
    """True for the image, a parameter, a buffer or a constant: nothing computes it."""
    return not node.inputs


def equal_sides(node: Any) -> bool:
    """True if as many pixels are left over beside a pooling's windows in both axes."""
    kernel, sizes = node.attr["kernel_shape"], node.input_shape[2:]
    return len({size % k for size, k in zip(sizes, kernel, strict=True)}) == 1


def _every(*checks: Check) -> Check:
    return lambda node: next(filter(None, (check(node) for check in checks)), "")


def _asks(holds: Callable[[Any], bool], words: str) -> Check:
    return lambda node: "" if holds(node) else words


def _has(name: str, allowed: Callable[[Any], bool], words: str, default: Any = None) -> Check:
    """An attribute's values, where it is there or has a default."""

    def check(node: Any) -> str:
        value = node.attr.get(name, default)
        return "" if value is not None and allowed(value) else f"its {words.format(value)}"

    return check


def _axes_of(node: Any) -> list[int] | None:
    axes = node.attr.get("axes", node.attr.get("axis"))
    return axes if axes is None or isinstance(axes, list) else [axes]


def _batch_first(node: Any) -> str:
    """Axes that are read from the end count from the longer of both shapes."""
    rank = len(node.output_shape if kind_of(node) == "Unsqueeze" else node.input_shape)
    axes = _axes_of(node)
    if axes is None:
        return "it goes over all axes, that of the images included"
    positive = [axis % rank for axis in axes]
    if 0 in positive:
        return "it goes along the axis of the images"
    return "" if positive == sorted(set(positive)) else "its axes must be in their order"


def _pads(node: Any) -> list[int]:
    return list(node.attr.get("pads", [0]))


def _same_pads(node: Any) -> bool:
    pads = _pads(node)
    half = len(pads) // 2
    return pads[:half] == pads[half:]


def _tile(node: Any) -> bool:
    tiling = node.attr["strides"] == node.attr["kernel_shape"] and not any(_pads(node))
    return tiling and equal_sides(node)


def _picks(node: Any) -> str:
    index = node.inputs[1]
    if kind_of(index) != "Constant":
        return "what it picks must be constant"
    chosen = index.value.flatten().tolist()
    once = len(set(chosen)) == len(chosen) and min(chosen) >= 0 and index.value.ndim < 2
    return "" if once else "what it picks must be picked once, and counted from the front"


def _slices(node: Any) -> str:
    if _late(node):
        return "what it slices must be constant"
    start, end, axes = (_value(operand).tolist() for operand in node.inputs[1:4])
    every = start == [0] and end[0] > 2**30  # all images, however many
    return "it takes some of the images" if 0 in axes and not every else ""


def _value(node: Any) -> Any:
    """The value of what does not depend on the image."""
    return node.value if is_leaf(node) else node.forward(*map(_value, node.inputs))


def _late(node: Any) -> bool:
    return any(operand.of_image for operand in node.inputs[1:])


_FIXED = _asks(lambda n: not _late(n), "its weights or statistics depend on the image")
_PLAIN = _asks(
    lambda n: all(map(is_leaf, n.inputs[1:])),
    "its weights are computed from other tensors: write them down first",
)
_VECTOR_BIAS = _asks(
    lambda n: all(len(b.output_shape) == 1 for b in n.inputs[2:]), "its bias must be a vector"
)
_UNSCALED = _every(
    _has("alpha", lambda a: a == 1, "product must not be scaled", 1.0),
    _has("beta", lambda b: b == 1, "bias must not be scaled", 1.0),
    _has("transA", lambda t: t == 0, "input must not be transposed", 0),
)
_SECOND_FIXED = _asks(
    lambda n: n.inputs[0].of_image and not n.inputs[1].of_image,
    "one of its matrices must not depend on the image, the second",
)
_PLANE = _has("kernel_shape", lambda sizes: len(sizes) == 2, "windows must have two axes")
_UNDILATED = _has("dilations", lambda d: set(d) == {1}, "windows must not be dilated", [1])
_ONE_DILATION = _has("dilations", lambda d: len(set(d)) == 1, "dilations must be equal", [1])
_FLOORED = _has("ceil_mode", lambda mode: mode == 0, "windows must lie within the image", 0)
_UNPADDED = _asks(lambda n: not any(_pads(n)), "its windows must lie within the image")
_COUNTS_PADDING = _asks(
    lambda n: n.attr.get("count_include_pad", 0) == 1 or not any(_pads(n)),
    "its windows must lie within the image",
)
_SYMMETRIC = _asks(_same_pads, "its padding must be the same on opposite sides")
_TILES = _asks(_tile, "its windows must tile the image, without padding")
_SLOPE = _has("alpha", lambda a: 0 <= a <= 1, "slope {:g} is not in [0, 1]")
_EVAL = _has("training_mode", lambda mode: mode == 0, "statistics must be the running ones", 0)
_IMAGES_STAY = _has("perm", lambda perm: perm[0] == 0, "first axis must stay, that of the images")
_SAME_RANK = _asks(  # or their axes of images would not meet
    lambda n: all(len(x.output_shape) == len(n.output_shape) for x in n.inputs if x.of_image),
    "its operands must have the same number of axes",
)
_DIVIDES = _asks(  # by a root: the library takes that for a part of a layer norm, whatever it is
    lambda n: not _late(n) and kind_of(n.inputs[1]) != "Sqrt",
    "its denominator must not depend on the image, nor be a square root",
)
_NO_CONSTANTS = _asks(
    lambda n: all(x.of_image for x in n.inputs), "all its parts must depend on the image"
)
_POSITIVE_AXES = _asks(
    lambda n: min(_axes_of(n) or [0]) >= 0, "its axes must be counted from the front"
)
_LAYER = frozenset({"dilations", "group", "kernel_shape", "pads", "strides"})
_POOL = frozenset({"ceil_mode", "kernel_shape", "pads", "strides"})
_AXES = frozenset({"axes", "keepdims"})
_GEMM = frozenset({"alpha", "beta", "transA", "transB"})
_NORM = frozenset({"epsilon", "momentum", "training_mode"})

RULES: dict[str, Rule] = {
    "Conv": Rule(_LAYER, _every(_PLANE, _SYMMETRIC, _FIXED), _every(_ONE_DILATION, _PLAIN)),
    "ConvTranspose": Rule(_LAYER, _every(_PLANE, _UNDILATED, _UNPADDED, _FIXED), _PLAIN),
    "Linear": Rule(_GEMM, _every(_UNSCALED, _FIXED, _VECTOR_BIAS), _PLAIN),
    "BatchNormalization": Rule(_NORM, _every(_EVAL, _FIXED), _PLAIN),
    "MatMul": Rule(frozenset(), _SECOND_FIXED, None),
    "MaxPool": Rule(
        _POOL | {"dilations"}, _every(_PLANE, _UNDILATED, _FLOORED, _SYMMETRIC), _TILES
    ),
    "AveragePool": Rule(
        _POOL | {"count_include_pad"}, _every(_PLANE, _FLOORED, _SYMMETRIC, _COUNTS_PADDING), _TILES
    ),
    "GlobalAveragePool": Rule(),
    "ReduceMean": Rule(_AXES, _batch_first),
    "ReduceSum": Rule(_AXES, _batch_first),
    "ReduceMax": Rule(_AXES, _batch_first, None),
    "Relu": Rule(),
    "LeakyRelu": Rule(frozenset({"alpha"}), _SLOPE),
    "Sigmoid": Rule(near=True),
    "Tanh": Rule(near=True),
    "Softplus": Rule(linear=None),
    "Abs": Rule(linear=None),
    "Neg": Rule(linear=None),
    "Add": Rule(interval=_SAME_RANK),
    "Sub": Rule(interval=_SAME_RANK),
    "Mul": Rule(interval=_SAME_RANK),
    "Div": Rule(interval=_every(_SAME_RANK, _DIVIDES)),
    "Flatten": Rule(frozenset({"axis"}), _has("axis", lambda axis: axis == 1, "axis must be 1")),
    "Reshape": Rule(frozenset({"allowzero"})),
    "Concat": Rule(frozenset({"axis"}), _batch_first, _NO_CONSTANTS),
    "Gather": Rule(frozenset({"axis"}), _every(_batch_first, _POSITIVE_AXES, _picks)),
    "Slice": Rule(frozenset(), _slices),
    "Split": Rule(frozenset({"axis", "split"}), _batch_first),
    "Transpose": Rule(frozenset({"perm"}), _IMAGES_STAY),
    "Squeeze": Rule(frozenset({"axes"}), _every(_batch_first, _POSITIVE_AXES)),
    "Unsqueeze": Rule(frozenset({"axes"}), _batch_first),
}
