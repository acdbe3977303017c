"""Parts: what a recipe is made of. A part's fields are its options.

A user's own part is validated, documented and logged like a built-in one, because all that is
known about it is read off its class. `build` turns a plain document into parts and names every
problem in it, not the first one only.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler
from pydantic.fields import FieldInfo

from robustprune.arithmetic import numbers
from robustprune.errors import (
    ContractError,
    InvalidError,
    Place,
    Problem,
    UsageError,
    first_line,
    nearest,
)
from robustprune.families import family
from robustprune.paths import usable
from robustprune.sentences import keys_of, no_list, sentence, shown, unknown_key

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
        key: mark for key, field in schema.model_fields.items() for mark in _marks(field.metadata)
    }


def _create(mark: PartOf, value: Mapping[str, Any] | str) -> Any:
    problems: list[Problem] = []
    part = _part(mark, value, (), problems)
    if problems:
        raise InvalidError(problems)
    return part


class _Bad:
    def __repr__(self) -> str:
        return "…"


_BAD = _Bad()  # stands for a value whose problems are noted already


def _model(schema: type[BaseModel], data: Any, place: Place, problems: list[Problem]) -> Any:
    if isinstance(data, schema):
        return data
    fields = schema.model_fields
    if isinstance(data, str) and "name" in fields:
        data = {"name": data}  # short, as for parts: `model: resnet18`
    if not isinstance(data, Mapping):
        message = f"expected a mapping with the keys {', '.join(fields)}; got {shown(data)}."
        problems.append(Problem(place, message))
        return _BAD
    before = len(problems)
    given = {key: field for key, field in fields.items() if key in data}
    clean = {k: _value(_hint(f), data[k], (*place, k), problems) for k, f in given.items()}
    unknown = [str(key) for key in data if key not in fields]
    problems.extend(Problem((*place, key), unknown_key(key, schema)) for key in unknown)
    good = {key: value for key, value in clean.items() if value is not _BAD}
    try:
        built = schema.model_validate(good)
    except TypeError as error:  # a method that its family asks for is missing
        raise ContractError(schema, first_line(error)) from error
    except pydantic.ValidationError as error:
        for detail in error.errors(include_url=False):
            if not _noted(detail, clean, len(problems) > before):
                problems.append(Problem((*place, *detail["loc"]), _fault(detail, fields)))
        return _BAD
    return built if len(problems) == before else _BAD


def _noted(detail: Any, clean: Mapping[str, Any], others: bool) -> bool:
    """Whether pydantic only says again what is a problem already, or follows from one."""
    if not detail["loc"]:
        return others  # what the whole model finds wrong, it may find in a default put for a _BAD
    return detail["input"] is _BAD or clean.get(str(detail["loc"][0])) is _BAD


def _fault(detail: Any, fields: Mapping[str, FieldInfo]) -> str:
    """A sentence; with what the option is for where that helps to give one."""
    field = fields.get(str(detail["loc"][0])) if len(detail["loc"]) == 1 else None
    if field is None or detail["type"] not in ("missing", "string_pattern_mismatch"):
        return sentence(detail)
    about = " ".join((field.description or "").split())
    if detail["type"] != "missing":
        return f"{sentence(detail)} {about}".rstrip()
    keys = ", ".join(keys_of(field.annotation))
    choices = [name for mark in _marks(field.metadata) for name in family(mark.family).names()]
    keys = f" Keys: {keys}." if keys else ""
    return f"this key is required. {about}{nearest('', choices) if choices else keys}".rstrip()


def _value(hint: Any, value: Any, place: Place, problems: list[Problem]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in _marks(args[1:]):
            return _part(mark, value, place, problems)
        return _value(args[0], value, place, problems)
    if origin in (typing.Union, types.UnionType) and type(None) in args:
        rest = [arg for arg in args if arg is not type(None)]
        if value is None:
            return None
        if len(rest) == 1:
            return _value(rest[0], value, place, problems)
    if origin in (list, tuple):
        return _list([arg for arg in args if arg is not ...], value, place, problems)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        entries = {k: _value(args[1], v, (*place, str(k)), problems) for k, v in value.items()}
        return _BAD if any(entry is _BAD for entry in entries.values()) else entries
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return _model(hint, value, place, problems)
    try:
        return _plain(hint, value)
    except ValueError as error:
        problems.append(Problem(place, f"{error}".rstrip(".") + "."))
        return _BAD


def _list(hints: Sequence[Any], value: Any, place: Place, problems: list[Problem]) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(Problem(place, no_list(value)))
        return _BAD
    last = len(hints) - 1
    return [
        _value(hints[min(index, last)], item, (*place, index), problems)
        for index, item in enumerate(value)
    ]  # with a _BAD in it, so that the other items are validated all the same


def _part(mark: PartOf, value: Any, place: Place, problems: list[Problem]) -> Any:
    registry = family(mark.family)
    if isinstance(value, registry.base):
        return value
    document = {"name": value} if isinstance(value, str) else value
    if mark.default is not None and isinstance(value, Mapping):
        usual = registry.get(mark.default["name"])
        if value.keys() <= usual.model_fields.keys():
            document = {**mark.default, **value}  # the usual part: `optimizer: {lr: 0.01}`
    if not isinstance(document, Mapping) or not isinstance(document.get("name"), str):
        message = f"expected a name or {{name: …, option: …}}; got {shown(value)}."
        problems.append(Problem(place, message + nearest("", registry.names())))
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
        raise ValueError(f"expected a number; got {shown(value)}")
    if Path in atoms and isinstance(value, str | Path):
        return usable(value)
    return value if atoms & {str, Path} else numbers(value)


def _atoms(hint: Any) -> set[Any]:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return _atoms(args[0])
    if typing.get_origin(hint) is typing.Literal:
        return {type(choice) for choice in args}
    if typing.get_origin(hint) in (dict, Mapping) and args:
        return _atoms(args[1])
    return set().union(*map(_atoms, args)) if args else {hint}


def _hint(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _marks(metadata: Iterable[Any]) -> list[PartOf]:
    return [mark for mark in metadata if isinstance(mark, PartOf)]
