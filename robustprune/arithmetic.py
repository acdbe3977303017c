"""Numbers as people write them in recipes: ``8/255``, ``1e-4``, ``2 * 0.031``."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

PATTERN = r"^[\s\d.eE+\-*/()_]*\d[\s\d.eE+\-*/()_]*$"
"""What arithmetic looks like, as a regular expression that JSON Schema knows too."""

_ARITHMETIC = re.compile(PATTERN)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_DATE = re.compile(r"\s*\d{4}-\d\d?-\d\d?\s*")
_LARGEST = 2**63 - 1


def number(text: str) -> int | float | None:
    """The value of an arithmetic expression, or None if ``text`` is none.

    Only numbers, ``+ - * /`` and parentheses are understood; nothing is executed. A date such as
    ``2024-10-11`` is none.

    Raises:
        ValueError: the expression divides by zero, or its value is not finite or too large.
    """
    if len(text) > 100 or not _ARITHMETIC.fullmatch(text) or _DATE.fullmatch(text):
        return None
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError):
        return None
    except ZeroDivisionError:
        raise ValueError(f"'{text}' divides by zero") from None
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not a finite number")
    _check_size(value)
    return value


def numbers(value: Any) -> Any:
    """``value`` with every arithmetic string in it, however deep, turned into its number.

    Raises:
        ValueError: see `number`; whole numbers are bounded wherever they stand.
    """
    if isinstance(value, str):
        parsed = number(value)
        return value if parsed is None else parsed
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    _check_size(value)
    return value


def written(value: float) -> str:
    """``value`` as a recipe has it: ``0.2``, ``8/255`` where that is exact, else six digits."""
    if float(f"{value:.2g}") == value:
        return f"{value:g}"
    steps = round(255 * value)  # of pixel values, in which radii are usually given
    exact = 0 < steps < 255 and steps / 255 == value
    return f"{steps}/255" if exact else f"{value:.6g}"


def _check_size(value: Any) -> None:
    """Refuse a whole number that no 64-bit integer holds."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("whole numbers go up to 2^63 - 1 = 9223372036854775807, got a larger one")


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left), _value(node.right))  # type: ignore[no-any-return]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))  # type: ignore[no-any-return]
    raise TypeError(f"not arithmetic: {ast.dump(node)}")
