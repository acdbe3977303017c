"""Cost of masks in a prune step: selecting them, opening them around it, going back through them.

    python benchmarks/masks.py
    python benchmarks/masks.py --models cnn_small --rounds 50

Each of the three is clocked by itself, by turns with steps of a dense network of the same shape
(the floors of step.py), so that it says where a step's time above its floor goes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from floors import OBJECTIVES, step_of
from prepared import Prepared, prepared
from ratio import alternate, table, write
from step import MODELS, ROUNDS

from robustprune.models import create_model

PARTS = ("select", "open", "backward")
FLOORS = ("trades", "benign")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = [measure(arguments, model) for model in arguments.models]
    heads = ["network", "prunable", *(f"{part}, ms" for part in PARTS)]
    heads += ["select / TRADES-10", *(f"all / {floor}" for floor in FLOORS)]
    cells = []
    for row in rows:
        seconds = {side: statistics.median(times) for side, times in row["times"].items()}
        masks = sum(seconds[part] for part in PARTS)
        cells.append([row["model"], f"{row['prunable']:,}"])
        cells[-1] += [f"{1e3 * seconds[part]:.2f}" for part in PARTS]
        cells[-1] += [f"{seconds['select'] / seconds['trades']:.2%}"]
        cells[-1] += [f"{masks / seconds[floor]:.2%}" for floor in FLOORS]
    command = " ".join(["python benchmarks/masks.py", *sys.argv[1:]])
    about = f"Density {arguments.density:g}, batch {arguments.batch}; floors are dense steps."
    write("masks", "What masks cost", command, rows, f"{about}\n\n{table(heads, cells)}")


def measure(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """One network: the parts that are the masks', and dense steps."""
    large = name not in ROUNDS
    layout = torch.channels_last if large else torch.contiguous_format
    images = torch.rand(arguments.batch, 3, 32, 32).to(memory_format=layout)
    labels = torch.randint(10, (arguments.batch,))
    sides: dict[str, Callable[[], object]] = {}
    for floor in FLOORS:
        dense = create_model(name, num_classes=10).to(memory_format=layout)  # type: ignore[call-overload]
        sides[floor] = step_of(OBJECTIVES[floor], dense, images, labels)
    network = create_model(name, num_classes=10).to(memory_format=layout)  # type: ignore[call-overload]
    pruning = prepared(network, density=arguments.density)
    sides |= _parts(pruning)
    times = alternate(sides, rounds=arguments.rounds or ROUNDS.get(name, 2), warm_up=1)
    row = {"model": name, "prunable": pruning.masked.prunable, "times": times}
    print({side: statistics.median(values) for side, values in times.items()}, flush=True)
    return row


def _parts(pruning: Prepared) -> dict[str, Callable[[], object]]:
    masked = pruning.masked
    layers = [masked.model.get_submodule(layer.name) for layer in masked.report()]
    gradients = [torch.ones_like(layer.weight) for layer in layers]
    weights: list[torch.Tensor] = []

    def opened() -> None:
        weights[:] = [layer.weight for layer in layers]

    def backward() -> None:
        torch.autograd.backward(weights, gradients)
        for scores in masked.scores.values():
            scores.grad = None

    return {"select": pruning.select, "open": opened, "backward": backward}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, help="turns of each side (default: by network)")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
