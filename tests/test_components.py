from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field, ValidationError, field_validator, model_validator

from robustprune.components import Options, Part, PartOf, build, check_installed
from robustprune.errors import InvalidError, MissingDependencyError, UsageError
from robustprune.families import FAMILIES
from robustprune.registry import Registry


class Toy(Part):
    """A family of parts."""

    eps: float = Field(0.1, ge=0, lt=1)
    """How far."""


class Wrapper(Toy):
    """Holds another."""

    inner: Annotated[Toy, PartOf("toys", {"name": "plain"})]
    """What is held."""
    count: int = Field(ge=1)
    """How often."""


class Size(Options):
    """A group with a rule of its own."""

    low: int = 1
    high: int = 100

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise UsageError(f"low ({self.low}) is above high ({self.high})")
        return self


class Named(Options):
    """A group that a plain name is short for."""

    name: str = Field(pattern="^[a-z]+$")
    """Small letters."""
    args: dict[str, Any] = {}


class Document(Options):
    """All kinds of fields."""

    ratio: float = 0.5
    steps: int = 1
    flag: bool = False
    text: str = ""
    path: Path | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0, 1)
    texts: list[str] = []
    mapped: dict[str, str] = {}
    free: dict[str, Any] = {}
    numbers: list[Annotated[float, Field(gt=0, le=1)]] = []
    size: Size | None = None
    named: Named | None = None
    part: Annotated[Toy, PartOf("toys", {"name": "plain"})]
    parts: list[Annotated[Toy, PartOf("toys")]] = Field([], max_length=3)
    even: int = 0

    @field_validator("even")
    @classmethod
    def _even(cls, even: int) -> int:
        if even % 2:
            raise ValueError("must be even")
        return even


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Registry[Toy]:
    registry = Registry("toys", base=Toy, modules=[])
    registry.register("plain")(type("Plain", (Toy,), {"__doc__": "Plain."}))
    registry.register("wrapper")(Wrapper)
    monkeypatch.setitem(sys.modules, "family_of_toys", SimpleNamespace(registry=registry))  # type: ignore[arg-type]
    monkeypatch.setitem(FAMILIES, "toys", "family_of_toys")
    return registry


def problems(document: Any, schema: type[Options] = Document) -> dict[str, str]:
    with pytest.raises(InvalidError) as error:
        build(schema, document)
    found = {".".join(map(str, p.place)): p.message for p in error.value.problems}
    assert len(found) == len(error.value.problems), "a place with two problems"
    return found


def test_arithmetic_becomes_numbers_and_text_stays_text() -> None:
    document = build(
        Document,
        {
            "ratio": "8/255",
            "steps": "2*3",
            "text": "1e-4",
            "path": "2/3",
            "pair": ["1/4", 1],
            "texts": ["1", "1/2"],
            "mapped": {"a": "1/2"},
            "numbers": ["1/2"],
            "free": {"eps": "8/255", "deep": [{"c": "1e-4"}, "name", True]},
            "named": {"name": "x", "args": {"rate": "1/2"}},
        },
    )
    assert (document.ratio, document.steps, document.pair) == (8 / 255, 6, (0.25, 1))
    assert (document.text, document.path, document.texts) == ("1e-4", Path("2/3"), ["1", "1/2"])
    assert (document.mapped, document.numbers) == ({"a": "1/2"}, [0.5])
    assert document.free == {"eps": 8 / 255, "deep": [{"c": 1e-4}, "name", True]}
    assert document.named is not None
    assert document.named.args == {"rate": 0.5}
    assert build(Document, {"named": "x"}).named == Named(name="x"), "short for {name: x}"


def test_parts_are_built_from_names_and_mappings_however_deep() -> None:
    wrapper = {"name": "wrapper", "count": 2, "inner": {"name": "wrapper", "count": "6/2"}}
    document = build(Document, {"part": "plain", "parts": [wrapper, "plain"]})
    outer = document.parts[0]
    assert isinstance(outer, Wrapper)
    assert isinstance(outer.inner, Wrapper)
    assert outer.inner.count == 3
    assert outer.inner.inner.registered_name == "plain"
    assert [part.registered_name for part in document.parts] == ["wrapper", "plain"]
    assert build(Document, {}).part.registered_name == "plain"
    usual = build(Document, {"part": {"eps": "1/4"}}).part
    assert usual.model_dump() == {"name": "plain", "eps": 0.25}


def test_parts_made_in_python_take_the_same_options() -> None:
    part = Wrapper(count="6/2", eps="1/4", inner={"name": "plain", "eps": "1/2"})  # type: ignore[arg-type]
    assert (part.count, part.eps, part.inner.eps) == (3, 0.25, 0.5)
    assert build(Document, {"part": part}).part is part


def test_a_built_document_can_be_written_down_and_built_again() -> None:
    given = {"part": {"name": "wrapper", "count": 2}, "parts": ["plain"], "path": "a/b"}
    document = build(Document, given)
    plain = document.model_dump(mode="json", serialize_as_any=True)
    assert plain["part"] == {
        "name": "wrapper",
        "eps": 0.1,
        "count": 2,
        "inner": {"name": "plain", "eps": 0.1},
    }
    assert build(Document, plain) == document


def test_all_problems_are_named_at_once() -> None:
    found = problems(
        {
            "ratio": "8/0",
            "steps": 1.5,
            "flag": 3,
            "text": 5,
            "path": 23,
            "kind": "c",
            "pair": [True, "x"],
            "texts": "one",
            "mapped": {"a": 1},
            "free": {"a": ["1/0"]},
            "numbers": [0, "1/2", 1.5, float("nan"), float("inf"), "8/0", True, "x"],
            "size": 3,
            "named": {"nam": "X"},
            "part": "plan",
            "partz": 1,
            "parts": [{"name": "wrapper", "inner": {"name": "plain", "epz": 1}}, 3, None],
        }
    )
    assert found == {
        "ratio": "'8/0' divides by zero.",
        "steps": "expected a whole number; got 1.5.",
        "flag": "expected true or false; got 3.",
        "text": "expected text in quotes; got 5.",
        "path": "expected text in quotes; got 23.",
        "kind": "should be 'a' or 'b'; got 'c'.",
        "pair.0": "expected a number; got true.",
        "pair.1": "expected a number such as 0.5 or 8/255; got 'x'.",
        "texts": "expected a list in brackets such as [a, b]; got 'one'. Write [one].",
        "mapped.a": "expected text in quotes; got 1.",
        "free.a": "'1/0' divides by zero.",
        "numbers.0": "should be greater than 0; got 0.",
        "numbers.2": "should be less than or equal to 1; got 1.5.",
        "numbers.3": "expected a finite number; got nan.",
        "numbers.4": "expected a finite number; got inf.",
        "numbers.5": "'8/0' divides by zero.",
        "numbers.6": "expected a number; got true.",
        "numbers.7": "expected a number such as 0.5 or 8/255; got 'x'.",
        "size": "expected a mapping with the keys low, high; got 3.",
        "named.nam": "unknown key 'nam'. Did you mean 'name'? Choices: args, name.",
        "named.name": "this key is required. Small letters.",
        "part.name": found["part.name"],
        "partz": found["partz"],
        "parts.0.inner.epz": "unknown key 'epz'. Did you mean 'eps'? Choices: eps.",
        "parts.0.count": "this key is required. How often.",
        "parts.1": "expected a name or {name: …, option: …}; got 3. Choices: plain, wrapper.",
        "parts.2": "expected a name or {name: …, option: …}; got nothing. Choices: plain, wrapper.",
    }
    assert "Did you mean 'plain'? Choices: plain, wrapper." in found["part.name"]
    assert found["partz"].startswith("unknown key 'partz'. Did you mean 'part'?")


CHOICES = "Choices: plain, wrapper."


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        ({"part": {"name": 3}}, "part", CHOICES),
        ({"part": {"nam": "plain"}}, "part", CHOICES),
        ({"part": ["plain"]}, "part", CHOICES),
        ({"part": {"count": 3}}, "part", CHOICES),
        ({"named": "X"}, "named.name", "got 'X'. Small letters."),
        ({"size": {"low": 5, "high": 2}}, "size", "low (5) is above high (2)."),
        ({"size": {"low": 500, "high": "8/0"}}, "size.high", "'8/0' divides by zero."),
        ({"high": 2}, "high", "unknown key 'high'. It belongs under 'size'."),
        ({1: 2}, "1", "unknown key '1'. Choices: "),
        ({"pair": [1]}, "pair.1", "an item is missing; got [1]."),
        (
            {"parts": ["plain"] * 4},
            "parts",
            "list should have at most 3 items after validation, not 4; got [",
        ),
        ({"path": "a\0b"}, "path", "it holds a NUL character"),
        ({"texts": None}, "texts", "in brackets such as [a, b]; got nothing"),
        ({"texts": {"a": 1}}, "texts", "in brackets"),
        ({"texts": "x" * 100}, "texts", "in brackets"),
        ({"even": "2+1"}, "even", "must be even."),
    ],
)
def test_a_problem_is_told_alone(document: Any, place: str, message: str) -> None:
    found = problems(document)
    assert list(found) == [place]
    assert message in found[place]


def test_huge_and_endless_values_are_shown_short() -> None:
    endless: list[Any] = []
    endless.append(endless)
    bomb: Any = "x"
    for _ in range(60):
        bomb = [bomb] * 9
    digits = int("f" * 10_000, 16)
    found = problems({"text": bomb, "kind": endless, "steps": digits, "flag": digits})
    assert set(found) == {"text", "kind", "steps", "flag"}
    assert all(len(message) < 4000 for message in found.values())
    assert "go up to 2^63 - 1" in found["steps"]


def test_a_part_registered_later_is_known(toys: Registry[Toy]) -> None:
    assert build(Document, {"part": "plain"})
    assert "part.name" in problems({"part": "late"})
    toys.register("late")(type("Late", (Toy,), {"__doc__": "Late."}))
    assert build(Document, {"part": "late"}).part.registered_name == "late"


def test_a_text_that_may_be_a_number_stays_text() -> None:
    class Either(Options):
        classes: int | list[str] | Path

    assert build(Either, {"classes": "1e3"}).classes == Path("1e3")
    assert build(Either, {"classes": 3}).classes == 3


def test_an_instance_is_taken_as_it_is_and_nothing_changes_it() -> None:
    size = Size()
    assert build(Size, size) is size
    with pytest.raises(ValidationError, match="frozen"):
        size.low = 3  # type: ignore[misc]


def test_options_given_in_python_are_validated_too() -> None:
    with pytest.raises(ValidationError, match="divides by zero"):
        Size(low="1/0")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="epz"):
        Toy(epz=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidError) as error:
        build(Named, {}, ("a", 0))
    assert error.value.problems[0].place == ("a", 0, "name"), "below the caller's place"


def test_libraries_are_looked_for_in_every_part_however_deep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Inner(Options):
        libraries = ("no_such_module", "json")

    class Outer(Part):
        libraries = ("no_other_module",)
        install = "make it"
        inner: list[Inner] = [Inner()]

    check_installed(Size())
    with pytest.raises(MissingDependencyError) as error:
        check_installed(Size(), Outer())
    assert str(error.value).splitlines() == [
        "not installed, and needed: no_other_module (outer). Install with",
        "    make it",
        "not installed, and needed: no_such_module (inner). Install with",
        "    pip install no_such_module",
    ]
    monkeypatch.setitem(sys.modules, "no_other_module", ModuleType("no_other_module"))
    with pytest.raises(MissingDependencyError, match="no_such_module"):
        check_installed(Outer())
