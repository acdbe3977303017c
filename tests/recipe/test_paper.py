from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robustprune.recipe import load_recipe

from .test_load import problems

Write = Callable[..., Path]

NUMBERS = "{pgd: {dense: 51.9 / 100, hydra-0.1: 0.495, my-own.1-0.005: 1, magnitude-1e-05: 0}}"


def test_numbers_of_a_paper_are_kept(write: Write) -> None:
    recipe = load_recipe(write(paper=f"{{source: 'HYDRA, Table 2', metrics: {NUMBERS}}}"))
    assert recipe.document()["paper"] == {
        "source": "HYDRA, Table 2",
        "metrics": {
            "pgd": {"dense": 0.519, "hydra-0.1": 0.495, "my-own.1-0.005": 1, "magnitude-1e-05": 0}
        },
    }
    assert load_recipe(write(paper="{source: HYDRA}")).document()["paper"]["metrics"] == {}
    assert load_recipe(write()).document()["paper"] is None


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        ("{metrics: {}}", "paper.source: this key is required"),
        ("{source: x, metrics: {pgd: {dense: 51.9}}}", "paper.metrics.pgd.dense: "),
        ("{source: x, metrics: {pgd: {dense: -0.1}}}", "paper.metrics.pgd.dense: "),
        ("{source: x, metrics: {pgd: {hydra: 0.1}}}", "'hydra' is no network's name"),
        ("{source: x, metrics: {pgd: {hydra-0.10: 0.1}}}", "'hydra-0.10' is no network's name"),
        ("{source: x, metrics: {pgd: {hydra-90: 0.1}}}", "'hydra-90' is no network's name"),
        ("{source: x, metrics: {pgd: {hydra-0: 0.1}}}", "'hydra-0' is no network's name"),
        ("{source: x, metrics: {pgd: {hydra-..: 0.1}}}", "'hydra-..' is no network's name"),
        ("{source: x, metrics: {pgd: {-0.1: 0.1}}}", "'-0.1' is no network's name"),
        ("{source: x, metrics: {'a b': {dense: 0.1}}}", "'a b' is no metric's name"),
    ],
)
def test_what_no_run_could_report_is_a_mistake(paper: str, message: str, write: Write) -> None:
    (found,) = problems(write(paper=paper))
    assert message in found
    assert found.startswith("r.yaml:9: paper")
