"""Numbers as people write them in recipes: ``8/255``, ``1e-4``, ``2 * 0.031``."""

from __future__ import annotations

import ast
import math
import operator
import re
from typing import Any

PATTERN = r"^[\s\d.eE+\-*/()_]*\d[\s\d.eE+\-*/()_]*$"
"""A regular expression that all arithmetic matches, in words that JSON Schema knows too."""

_ARITHMETIC = re.compile(PATTERN)
_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
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
    except (SyntaxError, LookupError, TypeError):
        return None
    except ZeroDivisionError:
        raise ValueError(f"'{text}' divides by zero") from None
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not a finite number")
    return _bounded(value)  # type: ignore[no-any-return]


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
    return _bounded(value)


def written(value: float) -> str:
    """``value`` as a recipe has it: ``0.2``, ``8/255`` where that is exact, else six digits."""
    if float(f"{value:.2g}") == value:
        return f"{value:g}"
    steps = round(255 * value)  # of pixel values, in which radii are usually given
    return f"{steps}/255" if 0 < steps < 255 and steps / 255 == value else f"{value:.6g}"


def _bounded(value: Any) -> Any:
    """``value``, but no whole number that does not fit in 64 bits."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("whole numbers go up to 2^63 - 1 = 9223372036854775807, got a larger one")
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    raise TypeError(f"not arithmetic: {ast.dump(node)}")
