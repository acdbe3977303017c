"""Verify saved networks by bounds on their logits.

They prove that no image within eps (l-infinity, cut to [0, 1]) is classified wrongly. Cheap bounds
come first, dear ones only for what is left undecided.

  robustprune verify model.safetensors --eps 2/255 --samples 200
  robustprune verify model.safetensors --bounds ibp,crown --images verdicts.parquet
  robustprune verify model.safetensors --seconds 600 --memory 4     falls back to cheap bounds
  robustprune verify model.safetensors --state verifying            killed, it goes on from there

Prints the clean, the verified and the PGD accuracy, and what the cheaper bounds verify alone: the
exact robust accuracy is between verified and PGD. If PGD breaks a verified image, the certificates
are unsound: that is said, and it exits 1.
`robustprune list evaluators verified` shows every option.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from robustprune.cli import evaluation, typed
from robustprune.cli.arguments import option
from robustprune.cli.evaluation import Metadata, evaluate_files, given, trained_with
from robustprune.errors import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    option(parser, "--eps X", "the radius (default: that of training)")
    text = "what to try, of ibp, crown_ibp, crown and alpha_crown (default: all)"
    option(parser, "--bounds NAME,…", text, type=typed.names)
    option(parser, "--seconds X", "limit of time (default: none)")
    option(parser, "--memory X", "limit of memory in GiB (default: 4)")
    option(parser, "--no-attack", "leave out PGD, which the bounds are checked against")
    evaluation.add_arguments(parser)


def command(arguments: Namespace) -> None:
    """Verify saved networks, and attack what the bounds verify."""
    evaluate_files(arguments, partial(evaluators, arguments))


def evaluators(arguments: Namespace, metadata: Metadata) -> list[dict[str, Any]]:
    """Clean accuracy, the cascade of bounds, and PGD in the same ball.

    Raises:
        UsageError: no eps is given, and the network was not trained for one.
    """
    eps = arguments.eps
    if eps is None:
        eps = trained_with(metadata, "eps", norm="linf")
    if eps is None:
        raise UsageError(
            "the network was not trained for an l-infinity ball whose radius could be taken over. "
            "Name one: --eps 2/255."
        )
    verified = {"name": "verified", "eps": eps, **given(arguments, "bounds", "seconds", "memory")}
    # in batches so small that something is seen of it
    attacks = [] if arguments.no_attack else [{"name": "pgd", "eps": eps, "batch_size": 50}]
    return [{"name": "clean"}, verified, *attacks]
