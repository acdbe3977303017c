from __future__ import annotations

import pytest

from robustprune.errors import (
    DivergedError,
    InterruptedRun,
    InvalidError,
    MissingDependencyError,
    Problem,
    UsageError,
    first_line,
    nearest,
)


def test_the_first_line_of_an_error_of_a_library() -> None:
    assert first_line(ValueError("\n  \x1b[31mwrong\x1b[0m size \nmore")) == "wrong size"
    assert first_line(ZeroDivisionError()) == "ZeroDivisionError"
    assert first_line(ValueError("x" * 400)) == "x" * 300


def test_a_problem_names_its_place() -> None:
    assert str(Problem(("evaluate", 1, "eps"), "is bad.")) == "evaluate.1.eps: is bad."
    assert str(Problem((), "is bad.")) == "is bad."


def test_an_invalid_document_names_every_problem() -> None:
    problems = [Problem(("a",), "one."), Problem(("b", 0), "two.")]
    error = InvalidError(iter(problems))
    assert error.problems == tuple(problems)
    assert str(error) == "a: one.\nb.0: two."


@pytest.mark.parametrize("kind", [InvalidError, MissingDependencyError, DivergedError])
def test_what_the_user_can_mend_is_a_usage_error(kind: type[Exception]) -> None:
    assert issubclass(kind, UsageError)


def test_pydantic_can_carry_a_usage_error_and_except_exception_cannot_swallow_an_interrupt() -> (
    None
):
    assert issubclass(UsageError, ValueError)
    assert issubclass(InterruptedRun, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pdg", " Did you mean 'pgd'? Choices: clean, pgd, trades."),
        ("TRADE", " Did you mean 'trades'? Choices: clean, pgd, trades."),
        ("xyz", " Choices: clean, pgd, trades."),
        ("", " Choices: clean, pgd, trades."),
    ],
)
def test_the_nearest_choice_comes_first_and_all_follow_sorted(name: str, hint: str) -> None:
    assert nearest(name, ["trades", "pgd", "clean"]) == hint


def test_a_choice_in_capitals_is_suggested_as_it_is_written() -> None:
    assert "Did you mean 'DeepFool'?" in nearest("deepfol", ["DeepFool", "CW"])


def test_no_choice_at_all_is_said() -> None:
    assert nearest("x", []) == " There are no options."


def test_names_are_compared_by_their_key_down_to_the_cutoff() -> None:
    choices = ["alpha.yaml", "quickstart.yml"]
    assert "Did you mean" in nearest("omega.yaml", choices), "the suffix is alike"
    assert "Did you mean" not in nearest("omega.yaml", choices, key=lambda n: n.split(".")[0])
    assert "Did you mean" not in nearest("omega.yaml", choices, cutoff=0.9)
    found = nearest("quickstart.txt", choices, cutoff=1, key=lambda n: n.split(".")[0])
    assert found == " Did you mean 'quickstart.yml'? Choices: alpha.yaml, quickstart.yml."


def test_long_lists_are_cut_to_the_best_ten() -> None:
    choices = [f"resnet{number}" for number in range(100)]
    hint = nearest("resnet18x", choices)
    assert hint.startswith(" Did you mean 'resnet18'? Nearest of 100 choices: resnet18, ")
    assert hint.count("resnet") == 11
    assert nearest("?", choices) == " Nearest of 100 choices: none."
