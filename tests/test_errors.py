from __future__ import annotations

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


def test_an_invalid_document_names_every_problem_with_its_place() -> None:
    problems = [Problem(("evaluate", 1, "eps"), "one."), Problem((), "two.")]
    error = InvalidError(iter(problems))
    assert error.problems == tuple(problems)
    assert str(error) == "evaluate.1.eps: one.\ntwo."


def test_the_kinds_of_errors() -> None:
    for kind in (InvalidError, MissingDependencyError, DivergedError):
        assert issubclass(kind, UsageError)
    assert issubclass(UsageError, ValueError), "pydantic can carry it"
    assert issubclass(InterruptedRun, KeyboardInterrupt), "except Exception cannot swallow it"


def test_the_nearest_choice_comes_first_and_all_follow_sorted() -> None:
    every = " Choices: clean, pgd, trades."
    hints = {"pdg": " Did you mean 'pgd'?", "TRADE": " Did you mean 'trades'?", "xyz": "", "": ""}
    for name, hint in hints.items():
        assert nearest(name, ["trades", "pgd", "clean"]) == hint + every
    assert "Did you mean 'DeepFool'?" in nearest("deepfol", ["DeepFool", "CW"])
    assert nearest("x", []) == " There are no options."


def test_names_are_compared_by_their_key_down_to_the_cutoff() -> None:
    choices = ["alpha.yaml", "quickstart.yml"]
    assert "Did you mean" in nearest("omega.yaml", choices), "the suffix is alike"
    assert "Did you mean" not in nearest("omega.yaml", choices, key=lambda n: n.split(".")[0])
    assert "Did you mean" not in nearest("omega.yaml", choices, cutoff=0.9)


def test_long_lists_are_cut_to_the_best_ten() -> None:
    choices = [f"resnet{number}" for number in range(100)]
    hint = nearest("resnet18x", choices)
    assert hint.startswith(" Did you mean 'resnet18'? Nearest of 100 choices: resnet18, ")
    assert hint.count("resnet") == 11
    assert nearest("?", choices) == " Nearest of 100 choices: none."
