"""How the time and memory of a prune step grow, and what share of it the masks have.

    python benchmarks/scale.py

TRADES-10 prune steps of CNN-small with more filters, a larger linear layer, or a larger batch. What
is the masks' is clocked by itself: selecting them, opening them around a step, and the backward
pass through them. Growth is the exponent of a line through all points in logarithms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from prepared import Prepared, prepared
from ratio import Peak, alternate, table, write
from torch import nn

from robustprune.objectives import create
from robustprune.types import Progress

SERIES: dict[str, list[dict[str, int]]] = {
    "width": [{"width": width} for width in (1, 2, 3, 4, 6)],
    "batch": [{"batch": batch} for batch in (32, 64, 128, 192, 256)],
    "prunable": [{"hidden": hidden} for hidden in (100, 400, 1600, 3200, 6400)],
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.point:
        print(json.dumps(measure(json.loads(arguments.point), arguments.rounds)))
        return
    rows: list[dict[str, Any]] = []
    for series, points in SERIES.items():
        rows += [{"series": series, **_in_a_process(arguments, point)} for point in points]
    cells = []
    for series in SERIES:
        own = [row for row in rows if row["series"] == series]
        axis = [row["prunable"] if series != "batch" else row["batch"] for row in own]
        for row in own:
            cells.append([series, f"{row['width']}", f"{row['hidden']}", f"{row['batch']}"])
            cells[-1] += [f"{row['prunable']:,}", f"{row['seconds']:.3f}", f"{row['mib']:.0f}"]
            cells[-1] += [f"{row['masks'] / row['seconds']:.2%}"]
        growth = [_slope(axis, [row[key] for row in own]) for key in ("seconds", "mib")]
        share = _slope(axis, [row["masks"] / row["seconds"] for row in own])
        cells.append([f"*{series}: exponent*", "", "", "", "", *(f"{g:.2f}" for g in growth)])
        cells[-1] += [f"{share:.2f}"]
    heads = ["series", "width", "hidden", "batch", "prunable", "s a step", "MiB", "masks' share"]
    text = "Exponents are over prunable weights, or over the batch.\n\n" + table(heads, cells)
    command = " ".join(["python benchmarks/scale.py", *sys.argv[1:]])
    write("scale", "Growth of a TRADES-10 prune step", command, rows, text)


def measure(point: dict[str, int], rounds: int) -> dict[str, Any]:
    """One size: seconds and MiB of a step, and seconds of what is the masks'."""
    usual = {"width": 1, "hidden": 100, "batch": 128}
    width, hidden, batch = (usual | point).values()
    pruning = prepared(network(width, hidden * width))
    masked, peak = pruning.masked, Peak()
    times = alternate(
        {"step": _step(pruning, batch), "masks": _masks(pruning)}, rounds=rounds, warm_up=2
    )
    size = {"width": width, "hidden": hidden * width, "batch": batch, "prunable": masked.prunable}
    medians = {name: statistics.median(values) for name, values in times.items()}
    found = {"seconds": medians["step"], "masks": medians["masks"], "mib": peak.mib()}
    return {**size, **found, "times": times}


def network(width: int, hidden: int) -> nn.Module:
    """CNN-small with more filters and a larger linear layer."""
    a, b = 16 * width, 32 * width
    convolutions = [nn.Conv2d(3, a, 4, 2, 1), nn.ReLU(), nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
    linears = [nn.Flatten(), nn.Linear(b * 64, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return nn.Sequential(*convolutions, *linears)


def _step(pruning: Prepared, batch: int) -> Callable[[], None]:
    objective = create("trades", step_size=2 / 255)
    images, labels = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    masked = pruning.masked
    optimizer = torch.optim.SGD(pruning.trained, lr=1e-3, momentum=0.9)

    def step() -> None:
        with masked.cached():
            objective(masked.model, images, labels, Progress()).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruning.select()

    return step


def _masks(pruning: Prepared) -> Callable[[], None]:
    """All that a step does for masks: selection, forward, and backward through them."""
    masked = pruning.masked
    layers = [masked.model.get_submodule(layer.name) for layer in masked.report()]
    gradients = [torch.ones_like(layer.weight) for layer in layers]

    def work() -> None:
        pruning.select()
        with masked.cached():
            torch.autograd.backward([layer.weight for layer in layers], gradients)
        for scores in masked.scores.values():
            scores.grad = None

    return work


def _slope(axis: list[float], values: list[float]) -> float:
    return float(np.polyfit(np.log(axis), np.log(values), 1)[0])


def _in_a_process(arguments: argparse.Namespace, point: dict[str, int]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    command += ["--rounds", str(arguments.rounds), "--threads", str(arguments.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
