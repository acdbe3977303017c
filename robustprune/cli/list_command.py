"""``robustprune list``."""

from __future__ import annotations

import typing
from argparse import Namespace
from typing import Any

from pydantic.fields import FieldInfo

from robustprune.errors import UsageError, nearest
from robustprune.families import FAMILIES, family
from robustprune.parts import Options, Part
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print families, or the parts of one and their options."""
    console = Console()
    choices = [*FAMILIES, "models"]
    if arguments.family is None:
        for name in FAMILIES:
            console.info(f"{name}: {', '.join(family(name).names())}")
        console.info("models: `robustprune list models`")
    elif arguments.family == "models":
        _models(console, arguments.pattern)
    elif arguments.family in FAMILIES:
        registry = family(arguments.family)
        for name in _matching(arguments.family, registry.names(), arguments.pattern):
            _part(console, name, registry.get(name))
    else:
        hint = nearest(arguments.family, choices)
        raise UsageError(f"there is no family '{arguments.family}'.{hint}")


def _part(console: Console, name: str, part: type[Part]) -> None:
    console.info(f"{name}: {_summary(part)}")
    _options(console, part, indent=4)


def _options(console: Console, options: type[Options], *, indent: int) -> None:
    """Each option on a line; those of a group below it, further in."""
    for key, field in options.model_fields.items():
        text = " ".join((field.description or "").split())
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Options) and not issubclass(group, Part):
            console.info(f"{' ' * indent}{key} (a group of options): {text}")
            _options(console, group, indent=indent + 4)
        else:
            console.info(f"{' ' * indent}{key} ({_kind(field)}){_default(field)}: {text}")


def _summary(part: type[Part]) -> str:
    return (part.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("    ", "")


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
    marks = [mark.default for mark in field.metadata if hasattr(mark, "family")]
    if marks and marks[0] is not None:
        return f" = {marks[0]['name']}"
    if field.is_required():
        return ", required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return ""
    return f" = {default:.6g}" if isinstance(default, float) else f" = {default}"


def _models(console: Console, pattern: str) -> None:
    from robustprune.models import model_names

    for name in _matching("models", model_names(), pattern):
        console.info(name)


def _matching(what: str, names: list[str], pattern: str) -> list[str]:
    found = [name for name in names if pattern in name]
    if not found:
        raise UsageError(
            f"none of the {what} has '{pattern}' in its name.{nearest(pattern, names)}"
        )
    return found
