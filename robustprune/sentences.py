"""How values and their faults are put into words that the author of a recipe understands."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from robustprune.errors import nearest

_LONGEST = 60
_MOST_ITEMS = 4
_DEEPEST = 3
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number such as 0.5 or 8/255",
    "float_parsing": "a number such as 0.5 or 8/255",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "text",
    "dict_type": "a mapping such as {key: value}",
}


def shown(value: Any, depth: int = 0) -> str:
    """``value`` about as a recipe would write it, cut short however large it is."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, str | Path):
        text = str(value)
        return repr(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")
    if isinstance(value, Mapping | list | tuple):
        return _collection(value, depth)
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def sentence(detail: Any) -> str:
    """One of pydantic's error details (see ``ValidationError.errors``) as a sentence."""
    kind, value = detail["type"], detail["input"]
    if kind == "value_error":
        return f"{detail['ctx']['error']}".rstrip(".") + "."
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}; got {shown(value)}{_remedy(kind, value)}."
    if kind == "missing":
        return f"an item is missing; got {shown(value)}."
    if kind in ("too_short", "too_long"):
        context = detail["ctx"]
        least, most = context.get("min_length"), context.get("max_length")
        bound = f"{least} or more" if kind == "too_short" else f"{most} or fewer"
        return f"expected a list of {bound}; got {shown(value)}."
    message = str(detail["msg"]).removeprefix("Input ").removeprefix("String ").rstrip(".")
    return f"{message}; got {shown(value)}."


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


def no_list(value: Any) -> str:
    """That a list was expected instead of ``value``, and how to make one of it."""
    if value is None:
        remedy = "write [] for an empty one"
    elif isinstance(value, str | int | float) and len(str(value)) < _LONGEST:
        remedy = f"write [{value}]"
    else:
        remedy = "put it in brackets, [ ]"
    return f"expected a list; got {shown(value)}: {remedy}."


def unknown_key(key: str, schema: type[BaseModel]) -> str:
    """That ``schema`` has no such key, and which it has; or the section where the key belongs."""
    fields = schema.model_fields
    sections = [name for name, field in fields.items() if key in keys_of(field.annotation)]
    if sections:
        return f"unknown key '{key}'. It belongs under {' or '.join(map(repr, sections))}."
    if not fields:
        name = getattr(schema, "registered_name", "") or schema.__name__
        return f"unknown key '{key}'. {name} has no options."
    return f"unknown key '{key}'.{nearest(key, fields)}"


def keys_of(hint: Any) -> list[str]:
    """The options of a field whose type is a group of options, or one or None; else nothing."""
    origin = typing.get_origin(hint)
    kinds = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    return [
        key
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for key in kind.model_fields
    ]


def _remedy(kind: str, value: Any) -> str:
    scalar = value is not None and not isinstance(value, Mapping | list | tuple)
    return ": put it in quotes" if kind in ("string_type", "path_type") and scalar else ""


def _collection(value: Any, depth: int) -> str:
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    if depth == _DEEPEST and value:
        return f"{opening}…{closing}"
    items: list[str] = []
    for item in value:
        if len(items) == _MOST_ITEMS:
            items.append("…")
            break
        text = shown(value[item] if isinstance(value, Mapping) else item, depth + 1)
        items.append(f"{item}: {text}" if isinstance(value, Mapping) else text)
    return f"{opening}{', '.join(items)}{closing}"
