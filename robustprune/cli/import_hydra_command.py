"""``robustprune import-hydra``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from robustprune.cli.outputs import writing
from robustprune.errors import UsageError
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Turn a checkpoint of HYDRA's reference implementation into a model file of ours."""
    from robustprune.artifacts.dense import save_model
    from robustprune.artifacts.hydra import read_hydra
    from robustprune.cli.layers import layer_table
    from robustprune.cli.opening import dataset

    data = dataset(arguments.data, None)
    saved = read_hydra(arguments.checkpoint, arch=arguments.arch, density=arguments.density)
    out: Path = arguments.out or _beside(arguments.checkpoint)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a model file ends in .safetensors. Name another file: --out.")
    metadata = dict(saved.metadata)
    if data is not None:
        metadata["data"] = {"name": data.registered_name}
    with writing(out):
        if out.exists() and out.samefile(arguments.checkpoint):
            raise UsageError(f"{out} is the checkpoint itself. Name another file with --out.")
        save_model(out, saved.model, masks=saved.masks, metadata=metadata)
    console = Console()
    console.table("prunable layers", *layer_table(saved))
    console.info(f"written to {out}")


def _beside(checkpoint: Path) -> Path:
    """``net.k0.1.pth.tar`` becomes ``net.k0.1.safetensors``."""
    name = checkpoint.name.removesuffix(".tar")
    name = name.removesuffix(".pth").removesuffix(".pt")
    return checkpoint.with_name(f"{name}.safetensors")
