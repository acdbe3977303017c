from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from robustprune.sentences import keys_of, no_list, shown, unknown_key


class Inner(BaseModel):
    eps: float = 0


class Outer(BaseModel):
    one: Inner = Inner()
    two: Inner | None = None
    many: list[Inner] = []
    epochs: int = 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        ("a", "'a'"),
        (Path("a/b"), "'a/b'"),
        ({"name": "pgd", "eps": None}, "{name: 'pgd', eps: nothing}"),
        ([1, [2, {}]], "[1, [2, {}]]"),
        ([1, 2, 3, 4], "[1, 2, 3, 4]"),
        ([1, 2, 3, 4, 5], "[1, 2, 3, 4, …]"),
        ([[[[1]]]], "[[[[…]]]]"),
        (2**80, "a whole number of 81 bits"),
    ],
)
def test_values_are_shown_as_a_recipe_would_write_them(value: Any, text: str) -> None:
    assert shown(value) == text


def test_no_value_is_shown_at_length() -> None:
    endless: list[Any] = []
    endless.append(endless)
    bomb: Any = "x"
    for _ in range(60):
        bomb = [bomb] * 9
    for value in ("y" * 10**6, endless, bomb, int("f" * 10_000, 16), b"z" * 10**6):
        assert len(shown(value)) < 4000
    assert len(shown("y" * 10**6)) < 70


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("clean", "write [clean]"),
        (0.1, "write [0.1]"),
        (None, r"write [] for an empty one"),
        ({"name": "clean"}, "put it in brackets"),
        ("x" * 100, "put it in brackets"),
    ],
)
def test_what_is_no_list_is_shown_how_to_become_one(value: Any, remedy: str) -> None:
    assert remedy in no_list(value)


def test_an_unknown_key_is_sent_where_it_belongs_or_to_the_nearest() -> None:
    assert unknown_key("eps", Outer) == "unknown key 'eps'. It belongs under 'one' or 'two'."
    assert unknown_key("epoch", Outer).startswith("unknown key 'epoch'. Did you mean 'epochs'?")


def test_the_keys_of_a_group_of_options() -> None:
    assert keys_of(Inner) == keys_of(Inner | None) == ["eps"]
    assert keys_of(list[Inner]) == keys_of(float | None) == keys_of(Any) == []
