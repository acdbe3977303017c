"""Search spaces as people write them."""

from __future__ import annotations

import pytest

from robustprune.errors import UsageError
from robustprune.pipeline.spaces import parse_space


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("k=log(1e-2, 100)", ["0.01", "1.0", "100.0"]),
        ("k = uniform(0,8/255)", ["0.0", "0.01569", "0.03137254901960784"]),
        ("k=int(1,4)", ["1", "2", "4"]),
        ("k=int(1,2)", ["1", "2"]),
        (
            "k=[sgd, {name: adam, lr: 1e-4}, 8/255, true]",
            ["sgd", "{name: adam, lr: 1e-4}", "8/255", "true"],
        ),
    ],
)
def test_points_are_evenly_spaced_between_the_ends(text: str, points: list[str]) -> None:
    assert parse_space(text).points(3) == points


def test_a_grid_of_one_point_is_the_lower_end() -> None:
    assert parse_space("k=log(1,10)").points(1) == ["1.0"]


@pytest.mark.parametrize(
    ("text", "value", "inside"),
    [
        ("k=log(1,10)", 1, True),
        ("k=log(1,10)", 10.5, False),
        ("k=log(1,10)", "3", False),
        ("k=log(1,10)", None, False),
        ("k=uniform(0,1)", True, False),
        ("k=int(1,10)", 3, True),
        ("k=int(1,10)", 3.5, False),
        ("k=[1,10]", 1, False),
    ],
)
def test_a_range_holds_numbers_between_its_ends(text: str, value: object, inside: bool) -> None:
    assert parse_space(text).holds(value) is inside


def test_numbers_are_short_and_stay_inside() -> None:
    space = parse_space("k=uniform(0.12341,0.22346)")
    assert space.shortened(0.1777777) == "0.1778"
    assert space.shortened(0.12342) == "0.12341"
    assert space.shortened(0.223458) == "0.22346"


def test_a_round_number_is_not_all_that_is_tried_out() -> None:
    assert parse_space("k=uniform(0,10)").probes == ["0.0", "3.719", "10.0"]
    assert parse_space("k=int(0,10)").probes == ["0", "4", "10"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("k", "expected KEY=SPACE"),
        ("=log(1,2)", "expected KEY=SPACE"),
        ("a..b=log(1,2)", "expected KEY=SPACE"),
        ("k=3", "expected log(a,b), uniform(a,b), int(a,b) or a list"),
        ("k=lag(1,2)", "there is no range 'lag'. Did you mean 'log'? Choices: int, log, uniform."),
        ("k=log(1)", "log takes two numbers, e.g. log(1,10); got 1."),
        ("k=log(1,two)", "expected a number such as 0.1, 1e-3 or 8/255; got 'two'."),
        ("k=log(1,1/0)", "'1/0' divides by zero."),
        ("k=log(0,1)", "a logarithm needs numbers above 0; got 0. Use uniform(a,b)."),
        ("k=uniform(2,1)", "the first number must be below the second one; got 2 and 1."),
        ("k=int(1,2.5)", "int takes whole numbers."),
        ("k=[1]", "a list takes two values or more"),
        ("k=[1, 2, 1]", "a value stands twice."),
        ("k=[1, 2", "this is not YAML"),
    ],
)
def test_mistakes_are_named_with_the_remedy(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_space(text)
    assert str(error.value).startswith(f"--over {text}: {reason}")
