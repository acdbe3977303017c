"""The options of a part, read off its class: what `robustprune list` and the documentation show."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from robustprune.components import Options, Part, part_marks
from robustprune.recipe import StageChanges


class Option(NamedTuple):
    """One option, as a recipe writes it; texts are on one line.

    Attributes:
        default: empty if it may be absent, or must not.
        group: if it is a group of options, those; not of a stage's, which stand with the recipe.
        family: if it is a part or a list of parts, the registry that names them; else empty.
    """

    key: str
    kind: str
    default: str
    required: bool
    meaning: str
    group: list[Option]
    family: str = ""

    def lines(self, indent: int = 4) -> Iterator[str]:
        """Yield a line for people, and one for each option of its group, further in."""
        default = f" = {self.default}" if self.default else ""
        default = ", required" if self.required else default
        yield f"{' ' * indent}{self.key} ({self.kind}){default}: {self.meaning}"
        for option in self.group:
            yield from option.lines(indent + 4)


def options(schema: type[Options]) -> list[Option]:
    """Return every option of a part or a group, in the order of the class."""
    return [_option(key, field) for key, field in schema.model_fields.items()]


def described(name: str, part: type[Part]) -> str:
    """Return a part's first paragraph on one line, its facts, and a line for each option."""
    about = " ".join((part.__doc__ or "").strip().split("\n\n")[0].split())
    facts = [f"  {key}: {value}" for key, value in part.facts().items()]
    lines = [line for option in options(part) for line in option.lines()]
    return "\n".join([f"{name}: {about}", *facts, *lines])


def _option(key: str, field: FieldInfo) -> Option:
    kinds = (field.annotation, *typing.get_args(field.annotation))
    groups = [kind for kind in kinds if _is_group(kind)]
    marks = part_marks(field)
    default = "" if groups else field.get_default(call_default_factory=True)
    if marks and isinstance(default, dict):
        default = default["name"]
    if field.is_required() or default is None:
        default = ""
    return Option(
        key=key,
        kind=_kind(field.annotation),
        default=f"{default:.6g}" if isinstance(default, float) else str(default),
        required=field.is_required(),
        meaning=" ".join((field.description or "").split()),
        group=options(groups[0]) if groups and groups[0] is not StageChanges else [],
        family=marks[0].family if marks else "",
    )


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Options) and not issubclass(hint, Part)


def _kind(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if origin is typing.Annotated:
        return _kind(args[0])
    if origin is list:
        return f"list of {_kind(args[0])}"
    if args and origin not in (tuple, dict):
        return " or ".join(map(_kind, args))
    if hint is type(None):
        return "nothing"
    if _is_group(hint):
        return "options of a stage" if hint is StageChanges else "a group of options"
    return hint.__name__.lower() if isinstance(hint, type) and not args else str(hint)
