from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune.messages import shown


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
