"""Write a network in a format for others, and a model card (Markdown) beside it.

  robustprune export runs/quickstart/<id>/hydra-0.01/model.safetensors       packed: small, exact
  robustprune export model.safetensors --format packed:values=fp16           smaller, rounded
  robustprune export model.safetensors --format dense --out net.pt           a plain state dict
  robustprune export model.safetensors --format onnx                         for other runtimes
  robustprune export model.safetensors --format sparse                       fast on CPUs, no torch
  robustprune export model.safetensors --recipe my.yaml --format mine        a backend of your own
  robustprune list backends                                                  formats and options

What was written is loaded again and run on random images before it counts as written. dense: the
names that the field gives to a network's tensors, for strict=True; .pt or .safetensors. packed: the
format is described in artifacts/PACKED.md of the package. sparse: for robustprune-runtime, which
multiplies by kept weights only. robustprune reads all but that one again; a .pt needs --arch.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from robustprune.cli import typed
from robustprune.cli.arguments import MODEL, add_imports, add_network, option, writing
from robustprune.errors import InvalidError, Problem, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("model", type=typed.path, help=MODEL)
    usage = "--format NAME[:KEY=VALUE,…]"
    text = "packed, dense, onnx, sparse or a backend of your own, and its options (default: packed)"
    option(parser, usage, text, type=typed.part, default="packed")
    option(parser, "--out FILE", "the file (default: beside the model)")
    option(parser, "--values VALUES", SUPPRESS, type=_values)
    add_network(parser)
    add_imports(parser)


def _values(text: str) -> None:
    raise ArgumentTypeError(f"is an option of a format now: --format packed:values={text}")


def command(arguments: Namespace) -> None:
    """Write a network in a format for others, and its model card beside it."""
    from robustprune.artifacts import backends
    from robustprune.artifacts.card import card_path, write_card
    from robustprune.artifacts.sizes import dense_bytes
    from robustprune.cli.network import open_model
    from robustprune.tracking import Console

    model: Path = arguments.model
    name, fields = arguments.format
    try:
        backend = backends.create(name, **fields)
    except InvalidError as error:
        problems = [Problem(("--format", *p.place), p.message) for p in error.problems]
        raise InvalidError(problems) from None
    saved = open_model(arguments)
    beside = model.name.removesuffix(model.suffix) + backend.suffixes[0]
    out: Path = arguments.out or model.with_name(beside)
    with writing(out):
        if out.exists() and model.exists() and out.samefile(model):
            raise UsageError(f"{out} is the network itself. Name another file with --out.")
        notes = backend.export(saved, out)
    with writing(card_path(out)):
        write_card(saved, out, backend, notes)
    size = out.stat().st_size
    share = f"{size:,} bytes, {size / dense_bytes(saved):.2%} of the network's tensors as they are"
    for line in (share, *notes, f"written to {out}, and {card_path(out).name} beside it"):
        Console().info(line)
