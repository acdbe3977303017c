"""``robustprune evaluate``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from robustprune.cli.judging import judge_saved
from robustprune.errors import UsageError


def command(arguments: Namespace) -> None:
    """Judge a saved network by any evaluators, or by those of its recipe."""
    judge_saved(arguments, lambda metadata: [evaluator_document(t) for t in arguments.evaluator])


def evaluator_document(text: str) -> dict[str, Any]:
    """``pgd:eps=8/255,steps=20`` as a recipe would write it."""
    name, _, options = text.partition(":")
    document: dict[str, Any] = {"name": name}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--evaluator {text}: expected NAME:KEY=VALUE,…; '{option}' has no =.")
        document[key.strip()] = value.strip()
    return document
