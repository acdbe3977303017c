"""Messages about values and their faults, in words that the author of a recipe understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

_LONGEST = 60
_MOST_ITEMS = 4
_DEEPEST = 3
_EXPECTED = {
    "int": "a whole number",
    "float": "a number such as 0.5 or 8/255",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text in quotes",
    "path": "text in quotes",
    "dict": "a mapping such as {key: value}",
    "list": "a list in brackets such as [a, b]",
    "tuple": "a list in brackets such as [a, b]",
}


def shown(value: Any, depth: int = 0) -> str:
    """``value`` about as a recipe would write it, cut short however large it is."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple):
        return _shown_collection(value, depth)
    text = str(value) if isinstance(value, str | Path) else repr(value)
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return repr(short) if isinstance(value, str | Path) else short


def _shown_collection(value: Any, depth: int) -> str:
    is_mapping = isinstance(value, Mapping)
    opening, closing = "{}" if is_mapping else "[]"
    if depth == _DEEPEST and value:
        return f"{opening}…{closing}"
    pairs = islice(value.items() if is_mapping else enumerate(value), _MOST_ITEMS)
    shorts = [(f"{key}: " if is_mapping else "", shown(item, depth + 1)) for key, item in pairs]
    items = ["".join(short) for short in shorts]
    more = ["…"] if len(value) > _MOST_ITEMS else []
    return f"{opening}{', '.join(items + more)}{closing}"


def sentence(detail: Any) -> str:
    """One of pydantic's error details (see ``ValidationError.errors``) as a sentence."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    expected, _, fault = kind.partition("_")
    if kind == "explained":
        return str(context["message"])
    if kind == "value_error":
        return f"{context['error']}".rstrip(".") + "."
    if kind == "frozen_instance":
        return (
            "parts are frozen. An option is a field of the class, as in `beta: float = 1.0`; state "
            "goes into a private one, as in `_count: int = PrivateAttr(0)`."
        )
    if expected in _EXPECTED and fault in ("type", "parsing", "from_float", "number"):
        one = expected in ("list", "tuple") and isinstance(value, str | int | float)
        remedy = f" Write [{value}]." if one and len(str(value)) < _LONGEST else ""
        return f"expected {_EXPECTED[expected]}; got {shown(value)}.{remedy}"
    if kind == "missing":
        return f"an item is missing; got {shown(value)}."
    message = str(detail["msg"]).removeprefix("Input ").removeprefix("String ").rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; got {shown(value)}."


def left_dense(found: Mapping[str, Sequence[str]]) -> list[str]:
    """``layers left dense in a, b: conv1``, a phrase for those that leave the same ones.

    Args:
        found: layers by network or pruner; those that leave none are passed over.
    """
    who: dict[str, list[str]] = {}
    for name, layers in found.items():
        if layers:
            who.setdefault(", ".join(layers), []).append(name)
    return [f"layers left dense in {', '.join(names)}: {layers}" for layers, names in who.items()]
