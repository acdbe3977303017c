"""The JSON Schema of recipes, so that editors complete and check them while they are written."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from robustprune.arithmetic import PATTERN
from robustprune.families import family
from robustprune.parts import PartOf
from robustprune.recipe.extending import KEY
from robustprune.recipe.schema import Recipe

Schema = dict[str, Any]

_EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "A recipe, or several, relative to this file, of which later ones win. This "
    "file's mappings are merged into theirs; its lists and scalars replace theirs.",
}

_ARITHMETIC = {
    "type": "string",
    "pattern": PATTERN,
    "description": "Arithmetic, such as 8/255, 1e-4 or 2 * (3 + 1).",
}


def json_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a recipe, with every part that is registered now.

    A part of a family is its name alone, if it needs no option, or ``{name: …, option: …}``. In a
    recipe that extends another one no key is required, because that one may have it.
    """
    whole, rest = _Composer(), _Composer(prefix="extending.", partial=True)
    complete, partial = whole.options(Recipe), rest.options(Recipe)
    partial["properties"] = {KEY: _EXTENDS, **partial["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "robustprune recipe",
        "description": complete["description"],
        "if": {"required": [KEY]},
        "then": partial,
        "else": complete,
        "$defs": {**whole.definitions, **rest.definitions},
    }


class _Composer:
    """Composes schemas; groups of options, parts and families become definitions.

    Args:
        prefix: of the definitions' names.
        partial: require nothing, not even a part's name: the rest is in another file.
    """

    def __init__(self, *, prefix: str = "", partial: bool = False) -> None:
        self._prefix, self._partial = prefix, partial
        self.definitions: dict[str, Schema] = {"arithmetic": _ARITHMETIC}

    def options(self, schema: type[BaseModel], *, name: str | None = None) -> Schema:
        """An object with the fields of ``schema``; of a part, with its ``name`` as well."""
        fields = schema.model_fields
        properties: dict[str, Schema] = {} if name is None else {"name": {"const": name}}
        properties |= {key: self._field(field) for key, field in fields.items()}
        required = [key for key, field in fields.items() if _needed(field)]
        return {
            "type": "object",
            "description": inspect.cleandoc(schema.__doc__ or ""),
            "properties": properties,
            "required": self._required(required if name is None else ["name", *required]),
            "additionalProperties": False,
        }

    def _field(self, field: FieldInfo) -> Schema:
        about: Schema = {"description": " ".join((field.description or "").split())}
        marks = _marks(field.metadata)
        default = marks[0].default if marks else field.get_default(call_default_factory=True)
        if default is not None and default is not PydanticUndefined:
            about["default"] = to_jsonable_python(default)
        return self._hint(field.annotation, field.metadata) | about

    def _hint(self, hint: Any, metadata: Iterable[Any] = ()) -> Schema:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        for mark in _marks(metadata):
            return self._family(mark.family)
        if not _composed(hint):
            plain: Schema = _with_arithmetic(_leaf(hint, metadata))
            self.definitions |= plain.pop("$defs", {})  # of the user's own types
            return plain
        if origin is Annotated:
            return self._hint(args[0], args[1:])
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self._hint(arg) for arg in args]}
        if isinstance(hint, type):
            return self._group(hint)
        inner = "items" if origin in (list, tuple) else "additionalProperties"
        whole: Any = list[Any] if inner == "items" else dict[str, Any]
        item = self._hint(args[0] if inner == "items" else args[1])
        return _leaf(whole, metadata) | {inner: item}

    def _group(self, schema: type[BaseModel]) -> Schema:
        reference = self._define(schema.__qualname__, lambda: self.options(schema))
        needed = [name for name, field in schema.model_fields.items() if _needed(field)]
        return {"anyOf": [{"type": "string"}, reference]} if needed == ["name"] else reference

    def _required(self, keys: list[str]) -> list[str]:
        return [] if self._partial else keys

    def _family(self, name: str) -> Schema:
        def choices() -> Schema:
            parts = {part: family(name).get(part) for part in family(name).names()}
            each = [each for item in parts.items() for each in self._part(name, *item)]
            return {"anyOf": each} if self._partial else {"oneOf": each}

        return self._define(name, choices)

    def _part(self, family_name: str, name: str, part: type[BaseModel]) -> list[Schema]:
        """The name alone, if no option is needed, and the mapping."""
        mapping = self._define(f"{family_name}.{name}", lambda: self.options(part, name=name))
        short = {"const": name, "description": _summary(part)}
        return [mapping] if any(map(_needed, part.model_fields.values())) else [short, mapping]

    def _define(self, name: str, compose: Callable[[], Schema]) -> Schema:
        key = f"{self._prefix}{name}"
        if key not in self.definitions:
            self.definitions[key] = {}  # stands there already when a part holds its own family
            self.definitions[key] = compose()
        return {"$ref": f"#/$defs/{key}"}


def _needed(field: FieldInfo) -> bool:
    return field.is_required() and not any(mark.default for mark in _marks(field.metadata))


def _marks(metadata: Iterable[Any]) -> list[PartOf]:
    return [mark for mark in metadata if isinstance(mark, PartOf)]


def _summary(part: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(part.__doc__ or "").split("\n\n")[0].split())


def _composed(hint: Any) -> bool:
    """Whether a part or a group of options is in ``hint``, however deep."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return issubclass(hint, BaseModel)
    return isinstance(hint, PartOf) or any(map(_composed, typing.get_args(hint)))


def _leaf(hint: Any, metadata: Iterable[Any]) -> Schema:
    annotated: Any = Annotated[(hint, *metadata)] if metadata else hint
    try:
        return TypeAdapter(annotated).json_schema()
    except PydanticInvalidForJsonSchema:
        return {}  # a type of the user's own: anything goes


def _with_arithmetic(schema: Any) -> Any:
    """Every number in a plain schema may be an arithmetic string instead."""
    if isinstance(schema, list):
        return [_with_arithmetic(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("number", "integer"):
        return {"anyOf": [schema, {"$ref": "#/$defs/arithmetic"}]}
    return {key: _with_arithmetic(item) for key, item in schema.items()}
