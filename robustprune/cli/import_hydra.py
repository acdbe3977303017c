"""Turn a checkpoint of HYDRA's reference implementation into a model file that every command takes.

  robustprune import-hydra model_best.pth.tar --density 0.1            with scores: k must be named
  robustprune import-hydra model_best_dense.pth.tar --data cifar10     without: zeros are the mask
  robustprune evaluate model_best.safetensors --data cifar10 --evaluator pgd:eps=8/255

It is read as data: nothing in it is executed. The mask follows the reference's rule, which may keep
one weight per layer more than robustprune's own at the same density.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from robustprune.cli import typed
from robustprune.cli.arguments import option, writing
from robustprune.errors import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("checkpoint", type=typed.path, help="a checkpoint.pth.tar of its train.py")
    option(parser, "--arch NAME", "the network's name there, or ours (default: the file's)")
    text = "its k, the share of weights kept; needed for a checkpoint with scores"
    option(parser, "--density X", text)
    option(parser, "--data NAME", "the dataset it was trained on, to be noted")
    option(parser, "--out FILE", "the model file (default: beside the checkpoint)")


def command(arguments: Namespace) -> None:
    """Turn a checkpoint of HYDRA's reference implementation into a model file of ours."""
    from robustprune.artifacts.hydra import read_hydra
    from robustprune.artifacts.saved import save_model
    from robustprune.cli.network import dataset, layer_table
    from robustprune.tracking import Console

    checkpoint: Path = arguments.checkpoint  # net.k0.1.pth.tar becomes net.k0.1.safetensors
    stem = checkpoint.name.removesuffix(".tar").removesuffix(".pth").removesuffix(".pt")
    data = dataset(arguments.data, None)
    saved = read_hydra(checkpoint, arch=arguments.arch, density=arguments.density)
    out: Path = arguments.out or checkpoint.with_name(f"{stem}.safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a model file ends in .safetensors. Name another file: --out.")
    if data is not None:
        saved.metadata["data"] = {"name": data.registered_name}
    with writing(out):
        if out.exists() and out.samefile(checkpoint):
            raise UsageError(f"{out} is the checkpoint itself. Name another file with --out.")
        save_model(out, saved.model, masks=saved.masks, metadata=saved.metadata)
    console = Console()
    console.table("prunable layers", *layer_table(saved))
    console.info(f"written to {out}")
