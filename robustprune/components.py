"""Parts: the building blocks that a recipe names. A part's fields are its options.

Pydantic validates them, so a user's own part is checked, documented and logged like a built-in
one. What is added to it here: arithmetic in place of numbers, parts that are looked up in the
registries by name, and messages that say what to write instead.
"""

from __future__ import annotations

import importlib.util
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from robustprune.arithmetic import numbers
from robustprune.errors import (
    ContractError,
    InvalidError,
    MissingDependencyError,
    Place,
    Problem,
    UsageError,
    nearest,
    synonyms,
)
from robustprune.families import family
from robustprune.messages import sentence, shown
from robustprune.paths import usable

Model = TypeVar("Model", bound=BaseModel)
_EXPLAINED = ("string_pattern_mismatch", "literal_error", "greater_than", "less_than_equal")
"""Faults of a value of the right type, which the option's description helps to mend."""


@dataclass(frozen=True)
class PartOf:
    """Marks a field that holds a part of a family: ``Annotated[Part, PartOf("objectives")]``.

    The parts are looked up when a value is validated, so that those registered later count too.
    """

    family: str
    """A key of `robustprune.families.FAMILIES`."""
    default: Mapping[str, Any] | None = field(default=None, hash=False)
    """The part to use when a recipe names none, as it would be written there."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._part)

    def _part(self, value: Any) -> Any:
        registry = family(self.family)
        if isinstance(value, registry.base):
            return value
        given = {"name": value} if isinstance(value, str) else value
        if isinstance(given, Mapping) and "name" not in given and self.default is not None:
            usual = registry.get(self.default["name"])
            if given.keys() <= usual.model_fields.keys():
                given = {**self.default, **given}  # the usual part: `optimizer: {lr: 0.01}`
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            message = f"expected a name or {{name: …, option: …}}; got {shown(value)}."
            raise ValueError(message + nearest("", registry.names()))
        try:
            part = registry.get(given["name"])
        except UsageError as error:
            raise _invalid([(("name",), str(error), given["name"])]) from None
        return part.model_validate({key: given[key] for key in given if key != "name"})


class Options(BaseModel):
    """A group of options. Arithmetic strings (``8/255``) are numbers, unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        defer_build=True,
    )

    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules that it imports when it is used, and that may not be there; see `check_installed`."""
    install: ClassVar[str] = ""
    """The command that installs them; that of pip if it is empty."""

    def requires(self) -> tuple[str, ...]:
        """The modules that it needs with these options: `libraries`, if nothing else is said."""
        return self.libraries

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give fields of parts their default."""
        for option in cls.model_fields.values():
            for mark in option.metadata:
                if isinstance(mark, PartOf) and mark.default and option.is_required():
                    option.default, option.validate_default = dict(mark.default), True

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        fields: Any = handler.resolve_ref_schema(schema)
        while fields["type"] != "model-fields":  # inside the model and its validators
            fields = handler.resolve_ref_schema(fields["schema"])
        _take_arithmetic([*fields["fields"].values()])
        return schema

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        return usable(value) if isinstance(value, Path) else value

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, and put every fault into words while it is known whose options they are."""
        if isinstance(data, cls):
            return data
        if isinstance(data, str) and "name" in cls.model_fields:
            data = {"name": data}  # short, as for parts: `model: resnet18`
        if not isinstance(data, Mapping):
            keys = ", ".join(cls.model_fields)
            raise ValueError(f"expected a mapping with the keys {keys}; got {shown(data)}")
        try:
            return validate({str(key): value for key, value in data.items()})
        except ValidationError as error:
            details = error.errors(include_url=False)
            raise _invalid((d["loc"], _fault(cls, d), d["input"]) for d in details) from None
        except ContractError:
            raise
        except TypeError as error:  # a method that its family asks for is missing
            raise ContractError(cls, str(error)) from error


class Part(Options):
    """A registered building block, written in a recipe as ``{name: …, option: …}``."""

    registered_name: ClassVar[str] = ""

    @classmethod
    def facts(cls) -> dict[str, str]:
        """Give what a list of parts shows of this one beside its docstring and options."""
        return {}

    @model_serializer(mode="wrap")
    def _with_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"name": self.registered_name, **handler(self)}


def build(schema: type[Model], data: Any, place: Place = ()) -> Model:
    """``data`` as an instance of ``schema``, with every part in it looked up and built.

    Raises:
        InvalidError: names every problem with its place below ``place``.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise InvalidError(Problem((*place, *d["loc"]), sentence(d)) for d in details) from None


def check_installed(*groups: Options) -> None:
    """Make sure that the modules are there that options, and the parts in them, need.

    They are looked for and not imported, so that this can be done before anything else is.

    Raises:
        MissingDependencyError: some are not; it says who needs them and how to install them.
    """
    missing: dict[str, dict[str, list[str]]] = {}
    for options in _inside(groups):
        group = type(options).__name__.removesuffix("Options").lower()
        who = getattr(options, "registered_name", "") or group
        for name in options.requires():
            if not is_installed(name):
                install = options.install or f"pip install {name}"
                missing.setdefault(install, {}).setdefault(name, []).append(who)
    lines = []
    for install, libraries in missing.items():
        named = [f"{name} ({', '.join(dict.fromkeys(who))})" for name, who in libraries.items()]
        lines.append(f"not installed, and needed: {', '.join(named)}. Install with\n    {install}")
    if lines:
        raise MissingDependencyError("\n".join(lines))


def is_installed(module: str) -> bool:
    """True if a module could be imported, or has been; it is not imported for that."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of the package around it; made by hand
        return sys.modules.get(module) is not None


def _inside(values: Iterable[Any]) -> Iterator[Options]:
    """All groups of options among the values, and in them, however deep."""
    for value in values:
        if isinstance(value, Options):
            yield value
            yield from _inside(field for _, field in value)
        elif isinstance(value, list | tuple):
            yield from _inside(value)


def part_marks(option: FieldInfo) -> list[PartOf]:
    """The marks of a field that holds a part, a list of parts, or one or None; at most one."""
    held = [getattr(kind, "__metadata__", ()) for kind in typing.get_args(option.annotation)]
    return [mark for mark in (*option.metadata, *sum(held, ())) if isinstance(mark, PartOf)]


def _groups(option: FieldInfo) -> list[type[BaseModel]]:
    """The group of options that a field holds, or may hold; else nothing."""
    kinds = (option.annotation, *typing.get_args(option.annotation))
    return [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]


def _keys(option: FieldInfo) -> list[str]:
    """The options of a field that holds a group of options, or one or None; else nothing."""
    parts = part_marks(option)
    return [] if parts else [key for group in _groups(option) for key in group.model_fields]


def _homes(schema: type[BaseModel], key: str, depth: int = 2) -> Iterator[tuple[str, ...]]:
    """The fields below ``schema`` that hold groups or parts with an option ``key``."""
    for name, option in schema.model_fields.items():
        inner = [] if (marks := part_marks(option)) else _groups(option)
        for mark in marks:
            names = [mark.default["name"]] if mark.default else family(mark.family).names()
            inner = [family(mark.family).get(part) for part in names]
        if any(key in group.model_fields for group in inner):
            yield (name,)
        elif depth > 1 and not marks:
            yield from ((name, *rest) for group in inner for rest in _homes(group, key, depth - 1))


def _unknown_key(schema: type[Options], key: str) -> str:
    """Name an option that there is not, and where it, or ours for it, is."""
    ours = synonyms(key)
    kept = " A density is the share that is kept: 90 % sparsity is density 0.1."
    remark = kept if "densities" in ours else ""
    for word in (key, *ours):
        if word != key and word in schema.model_fields:
            break
        found = list(dict.fromkeys(_homes(schema, word)))
        nearest_homes = [home for home in found if len(home) == min(map(len, found))]
        if homes := " or ".join(repr(".".join(home)) for home in nearest_homes):
            called = "" if word == key else f", where it is called '{word}'"
            return f"unknown key '{key}'. It belongs under {homes}{called}.{remark}"
    return f"unknown key '{key}'.{nearest(key, schema.model_fields)}{remark}"


def _invalid(faults: Iterable[tuple[Place, str, Any]]) -> ValidationError:
    """Pydantic's own error with our words, so that it finds its place wherever it is raised."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("explained", "{message}", {"message": message}),
            loc=tuple(key for key in place if key != "[key]"),  # of a mapping's key, not its value
            input=value,
        )
        for place, message, value in faults
    ]
    return ValidationError.from_exception_data("options", details)


def _fault(schema: type[Options], detail: Any) -> str:
    """One of pydantic's error details in words; with what the option is for where that helps."""
    kind, place, fields = detail["type"], detail["loc"], schema.model_fields
    key = place[0] if place else ""
    if kind == "extra_forbidden":
        return _unknown_key(schema, str(key))
    option = fields.get(key)
    about = " ".join((option.description or "").split()) if option is not None else ""
    if kind in _EXPLAINED:
        return f"{sentence(detail)} {about}".rstrip()
    if kind != "missing" or option is None or len(place) > 1:
        return sentence(detail)
    choices = [name for mark in part_marks(option) for name in family(mark.family).names()]
    keys = f" Keys: {', '.join(_keys(option))}." if _keys(option) else ""
    return f"this key is required. {about}{nearest('', choices) if choices else keys}".rstrip()


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number; got {shown(value)}")
    return numbers(value)


def _take_arithmetic(schema: Any) -> None:
    """Let each number in pydantic's core schemas be arithmetic, but where text may stand."""
    if isinstance(schema, list | tuple):
        for item in schema:
            _take_arithmetic(item)
    if not isinstance(schema, dict) or schema["type"] == "model":  # which has done so for itself
        return
    if schema["type"] in ("int", "float", "any"):
        plain: Any = dict(schema)
        parse = numbers if plain["type"] == "any" else _number
        schema.clear()
        schema.update(core_schema.no_info_before_validator_function(parse, plain))
        return
    choices = [choice for choice in schema.get("choices", ()) if isinstance(choice, dict)]
    if not any(choice["type"] in ("str", "lax-or-strict") for choice in choices):
        inner = [schema.get(key) for key in ("schema", "items_schema", "values_schema")]
        _take_arithmetic([*inner, *choices])
