"""Evaluate saved networks by attacks and other evaluators, and measure them.

Without --evaluator: by those of the recipe that made the network, on the same images and with the
same seeds, which gives the same numbers. With --measures alone nothing is judged.

  robustprune evaluate runs/quickstart/<id>/hydra-0.01/model.safetensors
  robustprune evaluate a.safetensors b.pt --arch resnet18 --data cifar10      one table
  robustprune evaluate model.safetensors --evaluator clean --evaluator pgd:eps=8/255,steps=20
  robustprune evaluate model.safetensors --measures size,flops,latency --threads 1
  robustprune evaluate model.safetensors --images images.csv     the results of each image
  robustprune evaluate model.safetensors --state attacking       keep finished batches there

Stopped or killed, the same command with the same --state goes on after the last finished batch, to
the same result; the folder is removed in the end.

Exit 1 if an attack breaks an image that a certificate verified.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from robustprune.cli import evaluation, typed
from robustprune.cli.arguments import option
from robustprune.cli.evaluation import Metadata, evaluate_files


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "an evaluator and its options; may be given several times"
    many: Any = {"type": typed.part, "action": "append", "default": []}
    option(parser, "--evaluator NAME[:KEY=VALUE,…]", text, **many)
    text = "what to measure of each network: size, flops, latency"
    option(parser, "--measures NAME,…", text, type=typed.names, default=[])
    evaluation.add_arguments(parser)


def command(arguments: Namespace) -> None:
    """Evaluate saved networks by any evaluators, or by those of their recipes."""
    batches = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    measures = [
        {"name": name, **(batches if name == "latency" else {})} for name in arguments.measures
    ]

    def documents(metadata: Metadata) -> list[dict[str, Any]] | None:
        if not (arguments.evaluator or measures):
            return None
        return [{"name": name, **options} for name, options in arguments.evaluator]

    evaluate_files(arguments, documents, measures=measures)
