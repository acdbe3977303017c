"""Tables of recorded results say what the records beside them say."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from .markdown import ROOT, text

STUDY = {"recipes/zoo/digits.yaml": "autoattack", "recipes/zoo/cifar10_resnet8.yaml": "pgd"}
"""Recipes of the table, and the metric by which each is judged."""


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import zoo
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return zoo


@pytest.mark.parametrize("page", ["README.md", "benchmarks/results/zoo/README.md"])
def test_the_one_table_of_the_zoo_is_that_of_its_records(page: str, zoo: ModuleType):
    judged = {str(ROOT / recipe): metric for recipe, metric in STUDY.items()}
    assert zoo.summary(judged) in text(page)
