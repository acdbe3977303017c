"""Compare logits of imported checkpoints with those of HYDRA's reference implementation itself.

    python benchmarks/reference_import.py --reference PATH

PATH is a checkout of https://github.com/inspire-group/hydra. Its own networks and its own
`subnet_to_dense` write checkpoints, with and without scores, in both formats of torch. The largest
difference of the logits goes to benchmarks/results/exports/reference_import.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustprune.artifacts.hydra import ARCHITECTURES, read_hydra

RESULT = Path(__file__).parent / "results" / "exports" / "reference_import.md"
DENSITIES = (0.1, 0.01)


def main() -> None:
    arguments = _arguments()
    sys.path.insert(0, str(arguments.reference))
    lines = [
        "# Checkpoints of the reference, imported",
        "",
        f"`python benchmarks/reference_import.py --reference PATH`. torch {torch.__version__}.",
        "Largest difference of logits on 4 random images, against the largest logit; over",
        "checkpoints with and without scores, with and without `module.`, zip and legacy.",
        "",
        "| network | density | difference | largest logit |",
        "| --- | ---: | ---: | ---: |",
    ]
    for arch in ARCHITECTURES:
        for density in DENSITIES:
            difference, logit = _compare(arch, density)
            lines.append(f"| {arch} | {density:g} | {difference:.1e} | {logit:.1e} |")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


def _compare(arch: str, density: float) -> tuple[float, float]:
    utils = importlib.import_module("utils.model")
    network = _network(arch)
    utils.set_prune_rate_model(network, density)
    images = _images(arch)
    with torch.no_grad():
        expected = network.eval()(_normalised(arch, images))
    states = [network.state_dict(), utils.subnet_to_dense(network.state_dict(), density)]
    worst = 0.0
    for state in states:
        for prefix, zipped in (("", True), ("module.", False)):
            saved = _imported(arch, {f"{prefix}{n}": t for n, t in state.items()}, zipped, density)
            with torch.no_grad():
                worst = max(worst, float((saved(images) - expected).abs().max()))
    return worst, float(expected.abs().max())


def _imported(arch: str, state: dict[str, Tensor], zipped: bool, density: float) -> nn.Module:
    checkpoint = {
        "epoch": 3,
        "arch": arch,
        "state_dict": state,
        "best_prec1": np.float64(51.25),
        "optimizer": {"param_groups": [{"lr": np.float64(0.01)}]},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth.tar"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
        return read_hydra(path, density=density).model


def _network(arch: str) -> Any:
    """The reference's own, with norm layers as after some training."""
    layers = importlib.import_module("models.layers")
    classes = {} if "model" in arch else {"num_classes": 10}
    torch.manual_seed(1)
    build = getattr(importlib.import_module("models"), arch)
    network = build(layers.SubnetConv, layers.SubnetLinear, "kaiming_normal", **classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def _images(arch: str) -> Tensor:
    options = ARCHITECTURES[arch]
    return torch.rand(4, options["in_chans"], options["image_size"], options["image_size"])


def _normalised(arch: str, images: Tensor) -> Tensor:
    """As the reference's data loader does it, outside the network."""
    mean, std = (torch.tensor(ARCHITECTURES[arch][k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    return (images - mean) / std


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True, metavar="PATH")
    return parser.parse_args()


if __name__ == "__main__":
    main()
