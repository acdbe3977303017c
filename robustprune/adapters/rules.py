"""What of auto-LiRPA 0.3's operators was compared with true minima, and is let through.

For many networks the library gives bounds that are none: it takes the first dilation for both, a
quotient for one of positive numbers, a product of two parameters for a square. So an operator is
refused unless it is in `RULES` with the attributes that it has there, for the kind of bound that is
asked for, and on the interval that was computed for its operand. Attributes that the table does
not name are refused too, as are operators of other versions of the library that it does not know.
`benchmarks/soundness.py` makes the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Check = Callable[[Any], str]
"""Why a node is refused; empty if it is not."""

LEAST = 0.01
"""What a denominator must reach: relaxations of 1/x have coefficients of 1/x² and lose digits."""
FAR = 400.0
"""How far from 0 tanh and sigmoid are relaxed rightly: the library cuts intervals at 500."""
LARGE = 80.0
"""Above it exponentials overflow in float32."""


class Domain(NamedTuple):
    """Where an operator's bounds are right.

    Attributes:
        operand: the number of the operand whose interval counts.
        holds: entry by entry, of the interval's lower and upper ends.
        words: the condition, to go on from "needs".
        asked: of a node, whether to ask for it where intervals are propagated (False) and where
            linear bounds are (True).
    """

    operand: int
    holds: Callable[[Tensor, Tensor], Tensor]
    words: str
    asked: Callable[[Any, bool], bool] = lambda node, linear: True


class Rule(NamedTuple):
    """With which attributes an operator is let through.

    Attributes:
        attributes: those that `interval` and `linear` know.
        interval: asked for every kind of bound.
        linear: asked for linear bounds besides; None if those were not compared, or are wrong.
        domain: asked for whenever bounds are computed.
    """

    attributes: frozenset[str] = frozenset()
    interval: Check = lambda _: ""
    linear: Check | None = lambda _: ""
    domain: Domain | None = None


def reason(node: Any, *, linear: bool) -> str:
    """Why the bounds of a node, which depends on the image, may be none; empty if they are."""
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
    """Whether a node is the image, a parameter, a buffer or a constant: nothing computes it."""
    return not node.inputs


def equal_sides(node: Any) -> bool:
    """Whether as many pixels are left over beside a pooling's windows in both axes."""
    kernel, sizes = node.attr["kernel_shape"], node.input_shape[2:]
    return len({size % k for size, k in zip(sizes, kernel, strict=True)}) == 1


def _every(*checks: Check) -> Check:
    return lambda node: next(filter(None, (check(node) for check in checks)), "")


def _has(name: str, allowed: Callable[[Any], bool], words: str, default: Any = None) -> Check:
    """An attribute's values, where it is there or has a default."""

    def check(node: Any) -> str:
        value = node.attr.get(name, default)
        return "" if value is not None and allowed(value) else f"its {words.format(value)}"

    return check


def _fixed(node: Any) -> str:
    late = any(operand.of_image for operand in node.inputs[1:])
    return "its weights or statistics depend on the image" if late else ""


def _plain(node: Any) -> str:
    computed = not all(is_leaf(operand) for operand in node.inputs[1:])
    return "its weights are computed from other tensors: write them down first" if computed else ""


def _batch_first(node: Any) -> str:
    """Axes that are read from the end count from the longer of both shapes."""
    rank = len(node.output_shape if kind_of(node) == "Unsqueeze" else node.input_shape)
    axes = node.attr.get("axes", node.attr.get("axis"))
    if axes is None:
        return "it goes over all axes, that of the images included"
    axes = axes if isinstance(axes, list) else [axes]
    positive = [axis % rank for axis in axes]
    if 0 in positive:
        return "it goes along the axis of the images"
    return "" if positive == sorted(set(positive)) else "its axes must be in their order"


def _positive_axes(node: Any) -> str:
    axes = node.attr.get("axes", [node.attr.get("axis", 0)])
    return "its axes must be counted from the front" if min(axes) < 0 else ""


def _tiles(node: Any) -> str:
    tiling = node.attr["strides"] == node.attr["kernel_shape"] and not any(_pads(node))
    return (
        "" if tiling and equal_sides(node) else "its windows must tile the image, without padding"
    )


def _pads(node: Any) -> list[int]:
    return list(node.attr.get("pads", [0]))


def _unpadded(node: Any) -> str:
    return "its windows must lie within the image" if any(_pads(node)) else ""


def _counts_padding(node: Any) -> str:
    """Without padding there is nothing to count."""
    counted = node.attr.get("count_include_pad", 0) == 1
    return "" if counted else _unpadded(node)


def _symmetric(node: Any) -> str:
    pads = _pads(node)
    half = len(pads) // 2
    return "" if pads[:half] == pads[half:] else "its padding must be the same on opposite sides"


def _same_rank(node: Any) -> str:
    """Of operands that depend on the image: their axes of images must meet."""
    other = any(len(x.output_shape) != len(node.output_shape) for x in node.inputs if x.of_image)
    return "its operands must have the same number of axes" if other else ""


def _divides(node: Any) -> str:
    # the library takes such a quotient for a part of a layer norm, whatever it is
    wrong = kind_of(node.inputs[1]) == "Sqrt"
    return "its bounds of division by a square root are not known to be right" if wrong else ""


def _numerator(node: Any) -> str:
    return "" if node.inputs[0].of_image else "its numerator must depend on the image"


def _no_constants(node: Any) -> str:
    constant = not all(operand.of_image for operand in node.inputs)
    return "all its parts must depend on the image" if constant else ""


def _picks(node: Any) -> str:
    index = node.inputs[1]
    if kind_of(index) != "Constant":
        return "what it picks must be constant"
    chosen = index.value.flatten().tolist()
    once = len(set(chosen)) == len(chosen) and min(chosen) >= 0 and index.value.ndim < 2
    return "" if once else "what it picks must be picked once, and counted from the front"


def _slices(node: Any) -> str:
    if any(operand.of_image for operand in node.inputs[1:]):
        return "what it slices must be constant"
    start, end, axes = (_value(operand).tolist() for operand in node.inputs[1:4])
    every = start == [0] and end[0] > 2**30  # all images, however many
    return "it takes some of the images" if 0 in axes and not every else ""


def _value(node: Any) -> Any:
    """The value of what does not depend on the image."""
    return node.value if is_leaf(node) else node.forward(*map(_value, node.inputs))


def _power(*exponents: int) -> Check:
    words = " or ".join(map(str, exponents))

    def check(node: Any) -> str:
        exponent = node.inputs[1]
        number = None if exponent.of_image else _value(exponent)
        fits = number is not None and number.numel() == 1 and float(number) in exponents
        return "" if fits else f"its exponent must be {words}"

    return check


def _second_fixed(node: Any) -> str:
    fixed = node.inputs[0].of_image and not node.inputs[1].of_image
    return "" if fixed else "one of its matrices must not depend on the image, the second"


def _one_dimensional_bias(node: Any) -> str:
    biases = node.inputs[2:]
    return "" if all(len(b.output_shape) == 1 for b in biases) else "its bias must be a vector"


_PLANE = _has("kernel_shape", lambda sizes: len(sizes) == 2, "windows must have two axes")
_UNDILATED = _has("dilations", lambda d: set(d) == {1}, "windows must not be dilated", [1])
_FLOORED = _has("ceil_mode", lambda mode: mode == 0, "windows must lie within the image", 0)
_SLOPE = _has("alpha", lambda a: 0 <= a <= 1, "slope {:g} is not in [0, 1]")
_FIRST_DILATION = _has("dilations", lambda d: len(set(d)) == 1, "dilations must be equal", [1])
_UNSCALED = _every(
    _has("alpha", lambda a: a == 1, "product must not be scaled", 1.0),
    _has("beta", lambda b: b == 1, "bias must not be scaled", 1.0),
    _has("transA", lambda t: t == 0, "input must not be transposed", 0),
)
_IMAGES_STAY = _has("perm", lambda perm: perm[0] == 0, "first axis must stay, that of the images")
_EVAL = _has("training_mode", lambda mode: mode == 0, "statistics must be the running ones", 0)
_DENOMINATOR = (lambda low, _: low >= LEAST, f"a denominator of at least {LEAST:g}")
_WITHIN = (lambda low, high: (low >= -FAR) & (high <= FAR), f"values from {-FAR:g} to {FAR:g}")
_NEAR = Domain(0, *_WITHIN, lambda _, linear: linear)
_LAYER = frozenset({"dilations", "group", "kernel_shape", "pads", "strides"})
_POOL = frozenset({"ceil_mode", "kernel_shape", "pads", "strides"})
_AXES = frozenset({"axes", "keepdims"})

RULES: dict[str, Rule] = {
    "Conv": Rule(_LAYER, _every(_PLANE, _symmetric, _fixed), _every(_FIRST_DILATION, _plain)),
    "ConvTranspose": Rule(_LAYER, _every(_PLANE, _UNDILATED, _unpadded, _fixed), _plain),
    "Linear": Rule(
        frozenset({"alpha", "beta", "transA", "transB"}),
        _every(_UNSCALED, _fixed, _one_dimensional_bias),
        _plain,
    ),
    "BatchNormalization": Rule(
        frozenset({"epsilon", "momentum", "training_mode"}), _every(_EVAL, _fixed), _plain
    ),
    "MatMul": Rule(frozenset(), _second_fixed, None),
    "MaxPool": Rule(
        _POOL | {"dilations"}, _every(_PLANE, _UNDILATED, _FLOORED, _symmetric), _tiles
    ),
    "AveragePool": Rule(
        _POOL | {"count_include_pad"}, _every(_PLANE, _FLOORED, _symmetric, _counts_padding), _tiles
    ),
    "GlobalAveragePool": Rule(),
    "ReduceMean": Rule(_AXES, _batch_first),
    "ReduceSum": Rule(_AXES, _batch_first),
    "ReduceMax": Rule(_AXES, _batch_first, None),
    "Relu": Rule(),
    "LeakyRelu": Rule(frozenset({"alpha"}), _SLOPE),
    "Sigmoid": Rule(domain=_NEAR),
    "Tanh": Rule(domain=_NEAR),
    "Add": Rule(interval=_same_rank),
    "Sub": Rule(interval=_same_rank),
    "Mul": Rule(interval=_same_rank),
    "Div": Rule(
        interval=_every(_same_rank, _divides),
        linear=_numerator,
        domain=Domain(1, *_DENOMINATOR, lambda node, _: bool(node.inputs[1].of_image)),
    ),
    "Reciprocal": Rule(domain=Domain(0, *_DENOMINATOR)),
    "Neg": Rule(linear=None),
    "Abs": Rule(linear=None),
    "Softplus": Rule(linear=None),
    "Sin": Rule(linear=None, domain=Domain(0, *_WITHIN)),
    "Cos": Rule(linear=None, domain=Domain(0, *_WITHIN)),
    "Atan": Rule(linear=None),
    "Exp": Rule(
        linear=None,
        domain=Domain(0, lambda _, high: high <= LARGE, f"an exponent of at most {LARGE:g}"),
    ),
    "Log": Rule(
        linear=None, domain=Domain(0, lambda low, _: low >= LEAST, f"values of at least {LEAST:g}")
    ),
    "Sqrt": Rule(linear=None, domain=Domain(0, lambda low, _: low >= 0, "no negative values")),
    "Pow": Rule(interval=_power(1, 2, 3, 4), linear=_power(2)),
    "Flatten": Rule(frozenset({"axis"}), _has("axis", lambda axis: axis == 1, "axis must be 1")),
    "Reshape": Rule(frozenset({"allowzero"})),
    "Concat": Rule(frozenset({"axis"}), _batch_first, _no_constants),
    "Gather": Rule(frozenset({"axis"}), _every(_batch_first, _positive_axes, _picks)),
    "Slice": Rule(frozenset(), _slices),
    "Split": Rule(frozenset({"axis", "split"}), _batch_first),
    "Transpose": Rule(frozenset({"perm"}), _IMAGES_STAY),
    "Squeeze": Rule(frozenset({"axes"}), _every(_batch_first, _positive_axes)),
    "Unsqueeze": Rule(frozenset({"axes"}), _batch_first),
}
