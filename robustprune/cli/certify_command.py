"""``robustprune certify``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

from robustprune.cli.judging import Metadata, given, judge_saved, trained_with


def command(arguments: Namespace) -> None:
    """Certify a saved network by randomised smoothing."""
    judge_saved(arguments, partial(evaluators, arguments))


def evaluators(arguments: Namespace, metadata: Metadata) -> list[dict[str, Any]]:
    """The smoothing evaluator, with the noise that the network was trained with."""
    options = given(arguments, "sigma", "n0", "n", "alpha", "radius", "sequential")
    trained = trained_with(metadata, "sigma")
    if trained is not None:
        options.setdefault("sigma", trained)
    return [{"name": "smoothing", **options}]
