"""The options of a part, read off its class: what `robustprune list` and the documentation show."""

from __future__ import annotations

import typing
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from robustprune.parts import Options, Part, PartOf


class Option(NamedTuple):
    """One option.

    Attributes:
        key: as a recipe writes it.
        kind: its type, in words.
        default: as text; empty if it may be absent, or must not.
        required: whether a recipe must give it.
        meaning: its docstring on one line.
        group: if it is a group of options, those.
        family: if it is a part or a list of parts, the registry that names them; else empty.
    """

    key: str
    kind: str
    default: str
    required: bool
    meaning: str
    group: list[Option]
    family: str = ""


def options(schema: type[Options]) -> list[Option]:
    """Every option of a part or a group, in the order of the class."""
    return [_option(key, field) for key, field in schema.model_fields.items()]


def summary(part: type[Part]) -> str:
    """The first paragraph of its docstring, on one line."""
    return (part.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("    ", "")


def _option(key: str, field: FieldInfo) -> Option:
    meaning = " ".join((field.description or "").split())
    group = _group(field.annotation)
    if group is None:
        default = _default(field)
        required = field.is_required() and not default
        return Option(key, _kind(field), default, required, meaning, [], _family(field))
    optional = " or nothing" if type(None) in typing.get_args(field.annotation) else ""
    kind = f"a group of options{optional}"
    return Option(key, kind, "", field.is_required(), meaning, options(group))


def _family(field: FieldInfo) -> str:
    """Read off the field's own mark, or that of a list's items."""
    items = [getattr(item, "__metadata__", ()) for item in typing.get_args(field.annotation)]
    marks = [mark for mark in (*field.metadata, *sum(items, ())) if isinstance(mark, PartOf)]
    return marks[0].family if marks else ""


def _group(hint: Any) -> type[Options] | None:
    """The class of a group of options, or of one that may be absent."""
    for kind in (hint, *typing.get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, Options) and not issubclass(kind, Part):
            return kind
    return None


def _kind(field: FieldInfo) -> str:
    def name(hint: Any) -> str:
        if typing.get_origin(hint) is typing.Literal:
            return " | ".join(map(str, typing.get_args(hint)))
        if hint is type(None):
            return "nothing"
        args = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Annotated:
            return name(args[0])
        if typing.get_origin(hint) is list:
            return f"list of {name(args[0])}"
        if args and typing.get_origin(hint) not in (tuple, dict):
            return " or ".join(map(name, args))
        return hint.__name__.lower() if isinstance(hint, type) and not args else str(hint)

    return name(field.annotation)


def _default(field: FieldInfo) -> str:
    marks = [mark.default for mark in field.metadata if isinstance(mark, PartOf)]
    if marks and marks[0] is not None:
        return str(marks[0]["name"])
    if field.is_required():
        return ""
    default = field.get_default(call_default_factory=True)
    if default is None:
        return ""
    return f"{default:.6g}" if isinstance(default, float) else f"{default}"
