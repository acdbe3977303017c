from __future__ import annotations

import re

import pytest

from robustprune.arithmetic import PATTERN, number, numbers, written

VALUES = {
    "8/255": 8 / 255,
    "1e-4": 1e-4,
    " 2 * 0.031": 0.062,
    "- 3": -3,
    "+.5": 0.5,
    "1_000": 1000,
    "2*(1+3)/4": 2.0,
    "1-2-3": -4,
    "2/4/2": 0.25,
    "9223372036854775807": 2**63 - 1,
}
TEXTS = [
    *("", "+", "1e", "1 -", "ten", "8/255 px", "8÷255", "0x10", "007", "1.2.3", "9**9", "1//2"),
    *("1(2)", "1,2", "1\n+2\n3", "٣", "(1", "1j", "__import__('os')", "2024-10-11", " 2024-1-1 "),
    *("9" * 101, "(" * 45 + "1", "1" * 1_000_000, "9**" * 30 + "9"),
]


def test_arithmetic_has_its_value_and_anything_else_is_text() -> None:
    for text, value in VALUES.items():
        assert number(text) == pytest.approx(value, rel=1e-15)
        assert re.fullmatch(PATTERN, text)
    assert not re.fullmatch(PATTERN, "ten")
    assert isinstance(number("2*3"), int)
    for text in TEXTS:
        assert number(text) is None
        assert numbers(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/(2-2)", "'1/(2-2)' divides by zero"),
        ("1e400", "'1e400' is not a finite number"),
        ("1e400-1e400", "not a finite number"),
        ("9223372036854775807+1", "go up to 2^63 - 1"),
        ("-9223372036854775807-1", "go up to 2^63 - 1"),
    ],
)
def test_numbers_without_a_usable_value_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        number(text)


def test_numbers_are_found_however_deep_and_nothing_else_is_touched() -> None:
    given = {"a": "8/255", "b": [{"c": ("1e-4", "x")}], "d": True, "e": None, "1/2": 3}
    expected = {"a": 8 / 255, "b": [{"c": [1e-4, "x"]}], "d": True, "e": None, "1/2": 3}
    assert numbers(given) == expected
    assert given["a"] == "8/255"
    with pytest.raises(ValueError, match="go up to"):
        numbers({"deep": [int("f" * 10_000, 16)]})  # str() of it would raise


def test_a_number_is_written_as_a_recipe_has_it() -> None:
    values = {8 / 255: "8/255", 0.2: "0.2", 0.031: "0.031", 1 / 3: "85/255", 0.1234567: "0.123457"}
    assert {value: written(value) for value in values} == values
