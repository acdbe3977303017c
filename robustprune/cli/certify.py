"""Certify saved networks by randomised smoothing (Cohen et al. 2019).

The class that a network gives most often under Gaussian noise cannot be changed within an l2
radius, up to a chance alpha of error per image. What is certified is the smoothed network. Train it
with noise of the same sigma.

  robustprune certify model.safetensors --samples 200
  robustprune certify model.safetensors --sigma 0.5 --n 1e5 --images radii.csv
  robustprune certify model.safetensors --radius 0.5 --sequential
  robustprune certify model.safetensors --n 1e5 --state certifying     killed, it goes on from there

--sequential asks only whether an image is certified at --radius, and stops drawing for it as soon
as that is settled, with the same alpha. `robustprune list evaluators smoothing` shows every option.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from robustprune.cli import evaluation
from robustprune.cli.arguments import option
from robustprune.cli.evaluation import Metadata, evaluate_files, given, trained_with


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments; the defaults that the help names are the evaluator's."""
    text = "the noise's standard deviation (default: that of training, or 0.25)"
    option(parser, "--sigma X", text)
    option(parser, "--n0 N", "draws that choose the class (default: 100)")
    option(parser, "--n N", "draws that certify it (default: 10000)")
    option(parser, "--alpha X", "chance of error per image (default: 0.001)")
    option(parser, "--radius X", "the l2 radius at which an image counts (default: 110/255)")
    text = "stop drawing when it is settled whether the radius is certified"
    option(parser, "--sequential", text, default=None)
    evaluation.add_arguments(parser)


def command(arguments: Namespace) -> None:
    """Certify saved networks by randomised smoothing."""
    evaluate_files(arguments, partial(evaluators, arguments))


def evaluators(arguments: Namespace, metadata: Metadata) -> list[dict[str, Any]]:
    """The smoothing evaluator, with the noise that the network was trained with."""
    trained = trained_with(metadata, "sigma")
    usual = {} if trained is None else {"sigma": trained}
    options = given(arguments, "sigma", "n0", "n", "alpha", "radius", "sequential")
    return [{"name": "smoothing", **usual, **options}]
