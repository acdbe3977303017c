"""``robustprune export``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from robustprune.cli.outputs import writing
from robustprune.errors import UsageError
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Write a network in a format for others, and its model card beside it."""
    _check_options(arguments)
    from robustprune.artifacts.card import card_path, write_card
    from robustprune.artifacts.exports import SUFFIXES, export
    from robustprune.artifacts.sizes import dense_bytes
    from robustprune.cli.opening import open_model

    saved = open_model(arguments)
    suffix = SUFFIXES[arguments.format][0]
    out: Path = arguments.out or _named(arguments.model, suffix)
    with writing(out):
        if out.exists() and arguments.model.exists() and out.samefile(arguments.model):
            raise UsageError(f"{out} is the network itself. Name another file with --out.")
        written = export(
            saved,
            out,
            format=arguments.format,
            values=arguments.values or "fp32",
            normalisation=arguments.normalisation or "fold",
        )
    with writing(card_path(out)):
        write_card(saved, written)
    console = Console()
    share = written.bytes / dense_bytes(saved)
    console.info(f"{written.bytes:,} bytes, {share:.2%} of the network's tensors as they are")
    for note in written.notes:
        console.info(note)
    console.info(f"written to {out}, and {card_path(out).name} beside it")


def _check_options(arguments: Namespace) -> None:
    """Refuse options that would be of no effect."""
    for name, format in (("values", "packed"), ("normalisation", "dense")):
        if getattr(arguments, name) is not None and arguments.format != format:
            raise UsageError(
                f"--{name} is of files of format '{format}', not of '{arguments.format}'. Leave it "
                f"out, or write --format {format}."
            )


def _named(model: Path, suffix: str) -> Path:
    """``model.safetensors`` or ``resnet50`` with another ending."""
    return model.with_name(model.name.removesuffix("".join(model.suffixes[-1:])) + suffix)
