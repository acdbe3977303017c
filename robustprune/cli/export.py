"""Write a network in a format for others, and a model card (Markdown) beside it.

  robustprune export runs/quickstart/<id>/hydra-0.01/model.safetensors       packed: small, exact
  robustprune export model.safetensors net.onnx                              the ending says which
  robustprune export model.safetensors --format packed:values=fp16           smaller, rounded
  robustprune export model.safetensors net.pt                                a plain state dict
  robustprune export model.safetensors --format sparse                       fast on CPUs, no torch
  robustprune export model.safetensors net.int8.onnx                         8-bit, calibrated
  robustprune export model.safetensors --format timm                         for timm.create_model
  robustprune export model.safetensors --hub my-model                        a folder to `hf upload`
  robustprune export model.safetensors --recipe my.yaml --format mine        a backend of your own
  robustprune list backends                                                  formats and options

What was written is loaded again and run on random images before it counts as written. dense: the
names that the field gives to a network's tensors, for strict=True; .pt or .safetensors. packed: the
format is described in artifacts/PACKED.md of the package. sparse: for robustprune-runtime, which
multiplies by kept weights only. robustprune reads all but sparse and pt2 again; a .pt needs --arch.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli import typed
from robustprune.cli.arguments import MODEL, add_imports, add_network, option, writing
from robustprune.errors import InvalidError, Problem, UsageError

if TYPE_CHECKING:  # heavy: --help imports this file
    from robustprune.artifacts.saved import SavedModel


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("model", type=typed.path, help=MODEL)
    text = "the file, right after MODEL; its ending names the format (default: beside MODEL)"
    parser.add_argument("file", type=typed.path, nargs="?", metavar="FILE", help=text)
    usage = "--format NAME[:KEY=VALUE,…]"
    text = "a format and its options, see `robustprune list backends` (default: as the file's "
    option(parser, usage, f"{text}ending says, or packed)", type=typed.part)
    option(parser, "--out FILE", "the file, too")
    text = (
        "a folder for the Hugging Face hub instead: the file (packed, dense or timm), config.json "
    )
    option(parser, "--hub DIR", f"{text}and model card, to be sent by `hf upload NAME DIR`")
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
    out: Path | None = arguments.file or arguments.out
    if None not in (arguments.file, arguments.out):
        raise UsageError(f"{arguments.file} and --out {arguments.out}: name one file.")
    if arguments.hub is not None:
        _write_hub(arguments)
        return
    if out and out.exists() and model.exists() and out.samefile(model):
        raise UsageError(f"{out} is the network itself. Name another file.")
    name, fields = arguments.format or (backends.named_by(out) if out else "packed", {})
    try:
        backend = backends.create(name, **fields)
    except InvalidError as error:
        problems = [Problem(("--format", *p.place), p.message) for p in error.problems]
        raise InvalidError(problems) from None
    saved = open_model(arguments)
    if backend.calibrated:
        saved = _with_data(saved, arguments)
    out = out or model.with_name(model.name.removesuffix(model.suffix) + backend.suffixes[0])
    with writing(out):
        notes = backend.export(saved, out)
    with writing(card_path(out)):
        write_card(saved, out, backend, notes)
    size = out.stat().st_size
    share = f"{size:,} bytes, {size / dense_bytes(saved):.2%} of the network's tensors as they are"
    for line in (share, *notes, f"written to {out}, and {card_path(out).name} beside it"):
        Console().info(line)


def _with_data(saved: SavedModel, arguments: Namespace) -> SavedModel:
    """The network with the dataset that is to calibrate it, and where that is."""
    from robustprune.cli.network import data_document

    data = data_document(arguments.data) or saved.metadata.get("data")
    if data is None:
        raise UsageError("which images is it to be calibrated on? Name their dataset: --data NAME.")
    where = {} if arguments.root is None else {"root": arguments.root}
    return replace(saved, metadata={**saved.metadata, "calibration": {**data, **where}})


def _write_hub(arguments: Namespace) -> None:
    """Write a folder for the Hugging Face hub."""
    from robustprune.artifacts.hub import HubModel
    from robustprune.cli.network import open_model
    from robustprune.tracking import Console

    name, fields = arguments.format or ("packed", {})
    if arguments.file or arguments.out or fields:
        raise UsageError("--hub DIR names the place, and takes a format without options.")
    model = HubModel(open_model(arguments), format=name)
    with writing(arguments.hub):
        model.save_pretrained(arguments.hub)
    Console().info(f"written to {arguments.hub}. Send it with: hf upload NAME {arguments.hub}")
