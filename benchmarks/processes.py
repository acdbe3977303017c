"""Two processes of one thread each beside one process of two threads, in training steps a second.

    python benchmarks/processes.py

TRADES-10 prune steps of CNN-small on random images, 128 a step on all processes together. The sides
take turns, each in new processes: torch's launcher starts the two. What is clocked is the time from
one batch to the next, the first few left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from prepared import prepared
from ratio import Times, ratio, table, write

from robustprune.components import build
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource
from robustprune.models import create_model
from robustprune.pipeline.compute import Compute
from robustprune.recipe import Recipe
from robustprune.tracking import Console
from robustprune.training.loop import Trainer

BATCH, WARM_UP, AIM = 128, 5, 0.85
SIDES = {"one": (1, 2), "two": (2, 1)}
"""Processes, and threads of each."""


class Clocked(TensorSource):
    """Random images, and the moments at which batches of them were asked for."""

    def __init__(self, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
        super().__init__(pixels, torch.randint(10, (images,), generator=generator))
        self.moments: list[float] = []

    def batches(self, batch_size: int, **options: Any) -> Iterator[Any]:
        for batch in super().batches(batch_size, **options):
            self.moments.append(perf_counter())
            yield batch


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        work(arguments)
        return
    times: Times = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            times[side].append(in_processes(side, arguments.steps))
    found = ratio(times, "one", "two")
    cells = []
    for side, (processes, threads) in SIDES.items():
        seconds = statistics.median(times[side])
        cells.append([f"{processes} × {threads}", f"{1000 * seconds:.1f}", f"{1 / seconds:.2f}"])
    text = table(["processes × threads", "ms a step", "steps a second"], cells)
    verdict = "met" if found >= AIM else "missed"
    text += f"\n\nThe two take {found:.2f} times the steps of the one; the aim is {AIM}: {verdict}."
    command = " ".join(["python benchmarks/processes.py", *sys.argv[1:]])
    row = {"ratio": found, "times": times}
    write("processes", "Processes: CNN-small, TRADES-10, prune", command, [row], text)


def in_processes(side: str, steps: int) -> float:
    """Seconds of a step of one side."""
    processes, threads = SIDES[side]
    with TemporaryDirectory() as folder:
        result = Path(folder, "seconds.json")
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes)]
        command += [__file__, "--worker", str(result), "--threads", str(threads)]
        subprocess.run([*command, "--steps", str(steps)], check=True)
        return float(json.loads(result.read_text()))


def work(arguments: argparse.Namespace) -> None:
    """Steps in this process, which the launcher may have given others to share batches with."""
    options = {"epochs": 1, "batch_size": BATCH, "optimizer": {"name": "sgd", "lr": 1e-3}}
    document = {
        "name": "processes",
        "data": "cifar10",
        "model": "cnn_small",
        "objective": {"name": "trades", "eps": 8 / 255, "step_size": 2 / 255, "steps": 10},
        "prune": {**options, "methods": ["hydra"], "densities": [0.1]},
        "pretrain": options,
        "compute": {"device": "cpu", "threads": arguments.threads},
    }
    recipe = build(Recipe, document)
    torch.manual_seed(0)  # each process starts from the same weights
    network = create_model("cnn_small", num_classes=10)
    stage, masked, method = prepared(network, options=recipe.stages)
    source = Clocked(BATCH * (WARM_UP + arguments.steps + 1))
    data = Splits(source, None, None, num_classes=10, channels=3, image_size=32)
    with Compute(recipe.compute) as compute, TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=compute.accelerator,
            shard=compute.shard,
            objective=recipe.objective,  # type: ignore[arg-type]
            data=data,
            seed=0,
            console=Console(quiet=True),
        )
        trainer.train("hydra", stage, masked, method, Path(folder) / "state.pt")
        first, last = source.moments[WARM_UP], source.moments[WARM_UP + arguments.steps]
        if compute.shard.is_main:
            arguments.worker.write_text(json.dumps((last - first) / arguments.steps))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=40, help="steps that are clocked, a turn")
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
