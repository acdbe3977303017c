from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustprune.components import Part
from robustprune.errors import InvalidError, UsageError
from robustprune.registry import Registry


class Toy(Part):
    """A family."""

    eps: float = 0.1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for modules of toys, which find their registry as ``toy_family.registry``."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def registry(*modules: str) -> Registry[Toy]:
    return Registry("toys", base=Toy, modules=modules)


def module(folder: Path, name: str, toys: Registry[Toy], code: str) -> None:
    family = types.ModuleType("toy_family")
    family.registry, family.Toy = toys, Toy  # type: ignore[attr-defined]
    sys.modules["toy_family"] = family
    head = "from toy_family import registry, Toy\n"
    (folder / f"{name}.py").write_text(head + code)


PART = "@registry.register({name!r})\nclass Mine(Toy):\n    'Mine.'\n"


def test_a_registered_part_can_be_got_listed_and_created() -> None:
    toys = registry()
    assert toys.register("one")(Toy) is Toy
    other = type("Other", (Toy,), {})
    toys.register("another")(other)
    assert toys.names() == ["another", "one"]
    assert toys.get("one") is Toy
    assert toys.create("another", eps="8/255").eps == 8 / 255
    assert other.registered_name == "another"


def test_a_taken_name_is_refused_with_its_owner_and_the_remedy() -> None:
    toys = registry()
    toys.register("one")(type("First", (Toy,), {}))
    with pytest.raises(UsageError, match=r"toy 'one' is already registered, by .*First") as error:
        toys.register("one")(type("Second", (Toy,), {}))
    assert "Register Second under another name" in str(error.value)
    assert toys.get("one").__name__ == "First"


@pytest.mark.parametrize("name", ["tree", 3, ["one"]])
def test_an_unknown_name_is_refused_with_the_choices_and_the_nearest(name: str) -> None:
    toys = registry()
    toys.register("three")(type("Three", (Toy,), {}))
    with pytest.raises(UsageError, match=r"unknown toy .*Choices: three\..*'imports:'") as error:
        toys.create(name)
    assert ("Did you mean 'three'" in str(error.value)) == (name == "tree")


def test_every_wrong_option_is_named() -> None:
    toys = registry()
    toys.register("one")(Toy)
    with pytest.raises(InvalidError) as error:
        toys.create("one", epz=1, eps="x")
    assert {problem.place for problem in error.value.problems} == {("epz",), ("eps",)}


def test_a_class_of_another_kind_is_refused() -> None:
    for thing in (Part, int, lambda: None):
        with pytest.raises(UsageError, match="must extend Toy"):
            registry().register("one")(thing)  # type: ignore[type-var]


def test_the_option_name_and_a_decorator_without_a_name_are_refused() -> None:
    class Named(Toy):
        name: str

    with pytest.raises(UsageError, match="give the option 'name' of Named another"):
        registry().register("one")(Named)
    with pytest.raises(UsageError, match=r"write @register\('a_name'\)"):
        registry().register(Toy)  # type: ignore[arg-type]


def test_modules_are_imported_when_first_asked_for(folder: Path) -> None:
    toys = registry("toy_one", "toy_two")
    module(folder, "toy_one", toys, PART.format(name="one"))
    module(folder, "toy_two", toys, PART.format(name="two"))
    assert "toy_one" not in sys.modules
    assert toys.names() == ["one", "two"]
    del sys.modules["toy_one"]
    assert toys.names() == ["one", "two"], "imported a second time"


def test_one_s_own_part_cannot_take_the_name_of_ours(folder: Path) -> None:
    toys = registry("toy_one")
    module(folder, "toy_one", toys, PART.format(name="one"))
    with pytest.raises(UsageError, match=r"'one' is already registered, by toy_one\.Mine"):
        toys.register("one")(type("Yours", (Toy,), {}))
    assert toys.get("one").__module__ == "toy_one"


def test_half_a_family_is_never_taken_for_the_whole(folder: Path) -> None:
    toys = registry("toy_one", "toy_broken")
    module(folder, "toy_one", toys, PART.format(name="one"))
    module(folder, "toy_broken", toys, "import toy_missing_library\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="toy_missing_library"):
            toys.names()


def test_a_class_has_one_name() -> None:
    registry = Registry("toys", base=Part, modules=[])
    toy = type("Toy", (Part,), {"__doc__": "A toy."})
    registry.register("one")(toy)
    with pytest.raises(UsageError, match="Toy is registered already, as 'one'"):
        registry.register("two")(toy)
    registry.register("two")(type("Other", (toy,), {"__doc__": "Another."}))
    assert registry.names() == ["one", "two"]
