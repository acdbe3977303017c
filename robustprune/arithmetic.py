"""Numbers as people write them in recipes: ``8/255``, ``1e-4``, ``2 * 0.031``."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

_ARITHMETIC = re.compile(r"[\s\d.eE+\-*/()_]*\d[\s\d.eE+\-*/()_]*")
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


def number(text: str) -> int | float | None:
    """The value of an arithmetic expression, or None if ``text`` is none.

    Only numbers, ``+ - * /`` and parentheses are understood; nothing is executed.

    Raises:
        ValueError: the expression divides by zero or its value is not finite.
    """
    if len(text) > 100 or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError):
        return None
    except ZeroDivisionError:
        raise ValueError(f"'{text}' divides by zero") from None
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not a finite number")
    return value


def numbers(value: Any) -> Any:
    """``value`` with every arithmetic string in it, however deep, turned into its number."""
    if isinstance(value, str):
        parsed = number(value)
        return value if parsed is None else parsed
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    return value


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left), _value(node.right))  # type: ignore[no-any-return]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))  # type: ignore[no-any-return]
    raise TypeError(f"not arithmetic: {ast.dump(node)}")
