"""Parts: what a recipe is made of. A part's fields are its options.

A user's own part is validated, documented and logged like a built-in one, because all that is
known about it is read off its class. `build` turns a plain document into parts and names every
problem in it, not the first one only.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler

from robustprune.arithmetic import numbers
from robustprune.errors import InvalidError, Place, Problem, UsageError, nearest
from robustprune.families import family

Model = TypeVar("Model", bound=BaseModel)


class Options(BaseModel):
    """A group of options. Arithmetic strings (``8/255``) are numbers, unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _parse_arithmetic(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        clean = {k: _plain(fields[k].annotation, v) if k in fields else v for k, v in data.items()}
        for key, mark in _part_fields(cls).items():
            value = clean.get(key, mark.default)
            if isinstance(value, Mapping | str):
                clean[key] = _create(mark, value)
        return clean


class Part(Options):
    """A registered building block, written in a recipe as ``{name: …, option: …}``."""

    registered_name: ClassVar[str] = ""

    @pydantic.model_serializer(mode="wrap")
    def _with_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"name": self.registered_name, **handler(self)}


@dataclass(frozen=True)
class PartOf:
    """Marks a field that holds a part of a family: ``Annotated[Part, PartOf("objectives")]``.

    Attributes:
        family: the registry's name, a key of `robustprune.families.FAMILIES`.
        default: the part to use when a recipe names none, as it would be written there.
    """

    family: str
    default: Mapping[str, Any] | None = None

    def __hash__(self) -> int:
        return hash(self.family)


def build(schema: type[Model], data: Any, place: Place = ()) -> Model:
    """``data`` as an instance of ``schema``, with every part in it looked up and built.

    Raises:
        InvalidError: names every problem with its place below ``place``.
    """
    problems: list[Problem] = []
    built = _model(schema, data, place, problems)
    if problems:
        raise InvalidError(problems)
    return typing.cast("Model", built)


def _part_fields(schema: type[BaseModel]) -> dict[str, PartOf]:
    return {
        key: mark
        for key, field in schema.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, PartOf)
    }


def _create(mark: PartOf, value: Mapping[str, Any] | str) -> Any:
    problems: list[Problem] = []
    part = _part(mark, value, (), problems)
    if problems:
        raise InvalidError(problems)
    return part


_BAD = object()  # stands for a value whose problems are noted already


def _model(schema: type[BaseModel], data: Any, place: Place, problems: list[Problem]) -> Any:
    if isinstance(data, schema):
        return data
    if not isinstance(data, Mapping):
        keys = ", ".join(schema.model_fields)
        problems.append(Problem(place, f"expected a mapping with the keys {keys}; got {data!r}."))
        return _BAD
    before = len(problems)
    clean: dict[str, Any] = {}
    for key, field in schema.model_fields.items():
        hint = (
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        )
        if key in data:
            clean[key] = _value(hint, data[key], (*place, key), problems)
    for key in data:
        if key not in schema.model_fields:
            hint_text = nearest(str(key), schema.model_fields)
            problems.append(Problem((*place, key), f"unknown key '{key}'.{hint_text}"))
    good = {key: value for key, value in clean.items() if value is not _BAD}
    try:
        built = schema.model_validate(good)
    except pydantic.ValidationError as error:
        problems.extend(
            Problem((*place, *detail["loc"]), _sentence(detail))
            for detail in error.errors(include_url=False)
            if clean.get(str(detail["loc"][0]) if detail["loc"] else "") is not _BAD
        )
        return _BAD
    return built if len(problems) == before else _BAD


def _value(hint: Any, value: Any, place: Place, problems: list[Problem]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        marks = [mark for mark in args[1:] if isinstance(mark, PartOf)]
        return (
            _part(marks[0], value, place, problems)
            if marks
            else _value(args[0], value, place, problems)
        )
    if origin in (typing.Union, types.UnionType) and type(None) in args:
        rest = [arg for arg in args if arg is not type(None)]
        if value is None:
            return None
        if len(rest) == 1:
            return _value(rest[0], value, place, problems)
    if origin is list and isinstance(value, list | tuple):
        items = [_value(args[0], v, (*place, i), problems) for i, v in enumerate(value)]
        return _BAD if any(item is _BAD for item in items) else items
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return _model(hint, value, place, problems)
    try:
        return _plain(hint, value)
    except ValueError as error:
        problems.append(Problem(place, f"{error}."))
        return _BAD


def _part(mark: PartOf, value: Any, place: Place, problems: list[Problem]) -> Any:
    registry = family(mark.family)
    if isinstance(value, registry.base):
        return value
    document = {"name": value} if isinstance(value, str) else value
    if not isinstance(document, Mapping) or "name" not in document:
        message = f"expected a name or {{name: …}}, got {value!r}.{nearest('', registry.names())}"
        problems.append(Problem(place, message))
        return _BAD
    try:
        schema = registry.get(document["name"])
    except UsageError as error:
        problems.append(Problem((*place, "name"), str(error)))
        return _BAD
    fields = {key: item for key, item in document.items() if key != "name"}
    return _model(schema, fields, place, problems)


def _plain(hint: Any, value: Any) -> Any:
    """Arithmetic read as numbers, unless the field holds text; truth values are no numbers."""
    atoms = _atoms(hint)
    if isinstance(value, bool) and atoms <= {int, float, type(None)}:
        raise ValueError(f"expected a number, got {value}")
    return value if atoms & {str, Path} else numbers(value)


def _atoms(hint: Any) -> set[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return {type(choice) for choice in typing.get_args(hint)}
    if typing.get_origin(hint) in (dict, Mapping):
        return {dict}
    args = typing.get_args(hint)
    return set().union(*map(_atoms, args)) if args else {hint}


def _sentence(detail: Any) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "missing":
        return "this key is required."
    if kind == "extra_forbidden":
        return "unknown key."
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return message
    return f"{message.rstrip('.')}; got {value!r}."
