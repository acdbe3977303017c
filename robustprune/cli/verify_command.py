"""``robustprune verify``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

from robustprune.cli.judging import Metadata, given, judge_saved, trained_norm, trained_with
from robustprune.errors import UsageError


def command(arguments: Namespace) -> None:
    """Verify a saved network by bounds on its logits, and attack what they verify."""
    judge_saved(arguments, partial(evaluators, arguments))


def evaluators(arguments: Namespace, metadata: Metadata) -> list[dict[str, Any]]:
    """Clean accuracy, the cascade of bounds, and PGD in the same ball.

    Raises:
        UsageError: no eps is given, and the network was not trained for one.
    """
    eps = arguments.eps
    if eps is None and trained_norm(metadata) == "linf":
        eps = trained_with(metadata, "eps")
    if eps is None:
        raise UsageError(
            "the network was not trained for an l-infinity ball whose radius could be taken over. "
            "Name one: --eps 2/255."
        )
    verified = {"name": "verified", "eps": eps, **given(arguments, "bounds", "seconds", "memory")}
    attacks = [] if arguments.no_attack else [{"name": "pgd", "eps": eps}]
    return [{"name": "clean"}, verified, *attacks]
