from __future__ import annotations

import re

import pytest

from robustprune.arithmetic import PATTERN, number, numbers, written

VALUES = {
    "8/255": 8 / 255,
    "1e-4": 1e-4,
    "1E3": 1000.0,
    "2 * 0.031": 0.062,
    " 3 ": 3,
    "-0.5": -0.5,
    "- 3": -3,
    "+.5": 0.5,
    "1_000": 1000,
    "2*(1+3)/4": 2.0,
    "1-2-3": -4,
    "2/4/2": 0.25,
    "1+2*3": 7,
    "-(1+1)": -2,
}
TEXTS = [
    *("", " ", "+", "e", "1e", "1 -", "ten", "8/255 px", "8÷255", "10%", "0x10", "007", "1.2.3"),
    *("9**9", "1//2", "1(2)", "1,2", "1\n+2\n3", "٣", "²", "(1", "1j", "__import__('os')", "e1()"),
    *("2024-10-11", " 2024-1-1 ", "9" * 101, "(" * 45 + "1"),
]


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_arithmetic_has_its_value(text: str, value: float) -> None:
    assert number(text) == pytest.approx(value, rel=1e-15)


def test_whole_numbers_stay_whole() -> None:
    assert isinstance(number("2*3"), int)
    assert isinstance(number("6/3"), float)


@pytest.mark.parametrize("text", TEXTS)
def test_anything_else_is_text(text: str) -> None:
    assert number(text) is None
    assert numbers(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8/0", "'8/0' divides by zero"),
        ("1/(2-2)", "divides by zero"),
        ("1e400", "'1e400' is not a finite number"),
        ("1e308*10", "not a finite number"),
        ("1e400-1e400", "not a finite number"),
        ("9" * 90, "go up to 2^63 - 1"),
        ("9223372036854775807+1", "go up to 2^63 - 1"),
        ("-9223372036854775807-1", "go up to 2^63 - 1"),
    ],
)
def test_numbers_without_a_usable_value_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        number(text)


def test_the_largest_whole_number_is_64_bits_wide() -> None:
    assert number("9223372036854775807") == 2**63 - 1
    with pytest.raises(ValueError, match="go up to"):
        numbers({"deep": [2**63]})
    with pytest.raises(ValueError, match="go up to"):
        numbers(int("f" * 10_000, 16))  # str() of it would raise


def test_numbers_are_found_however_deep_and_nothing_else_is_touched() -> None:
    given = {"a": "8/255", "b": [{"c": ("1e-4", "x")}], "d": True, "e": None, "1/2": 3}
    expected = {"a": 8 / 255, "b": [{"c": [1e-4, "x"]}], "d": True, "e": None, "1/2": 3}
    assert numbers(given) == expected
    assert numbers(True) is True
    assert given["a"] == "8/255"


def test_the_pattern_takes_all_arithmetic() -> None:
    assert all(re.fullmatch(PATTERN, text) for text in VALUES)
    assert not re.fullmatch(PATTERN, "ten")


def test_hostile_texts_are_not_numbers() -> None:
    for text in ("1" * 1_000_000, "(" * 100_000, "-" * 99 + "1", "9**" * 30 + "9", "1 " * 50):
        assert number(text) in (None, 1 - 2 * (text.count("-") % 2))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.2, "0.2"),
        (0.031, "0.031"),
        (1 / 3, "85/255"),
        (0.1234567, "0.123457"),
    ],
)
def test_a_number_is_written_as_a_recipe_has_it(value: float, text: str) -> None:
    assert written(value) == text
