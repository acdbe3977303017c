"""The share of an epoch that a training loop spends waiting for data.

    python benchmarks/waiting.py

CNN-small on the real CIFAR-10 under TRADES-10: between two batches the loop waits for the source,
and that time is clocked beside the whole epoch's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from prepared import prepared
from ratio import table, write

from robustprune.components import build
from robustprune.datasets import create as create_dataset
from robustprune.datasets.source import TensorSource, TrainingBatch
from robustprune.models import create_model
from robustprune.recipe import Recipe
from robustprune.tracking import Console
from robustprune.training.loop import Trainer


class Clocked(TensorSource):
    """A source that clocks how long it is waited for."""

    waited = 0.0

    def batches(self, batch_size: int, **options: Any) -> Iterator[TrainingBatch]:
        batches = super().batches(batch_size, **options)
        while True:
            start = perf_counter()
            batch = next(batches, None)
            self.waited += perf_counter() - start
            if batch is None:
                return
            yield batch


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    data = create_dataset("cifar10").load(seed=0, test=False)
    source = Clocked(data.train.images, data.train.labels, data.train.augment)
    document = {
        "name": "data",
        "data": "cifar10",
        "model": "cnn_small",
        "objective": {"name": "trades", "step_size": 2 / 255},
        "pretrain": {"epochs": 1, "optimizer": {"lr": 0.01}},
    }
    recipe = build(Recipe, document)
    model = create_model("cnn_small", num_classes=10)
    stage, masked, method = prepared(model, "pretrain", options=recipe.stages)
    trainer = Trainer(
        accelerator=Accelerator(cpu=True),
        objective=recipe.objective,  # type: ignore[arg-type]
        data=type(data)(source, None, None, 10, 3, 32),
        seed=0,
        console=Console(),
        max_steps=arguments.steps,
    )
    with TemporaryDirectory() as folder:
        start = perf_counter()
        trainer.train("dense", stage, masked, method, Path(folder) / "state.pt")
        whole = perf_counter() - start
    row = {"steps": arguments.steps, "seconds": whole, "waited": source.waited}
    text = table(
        ["steps", "s in all", "s waiting", "share"],
        [
            [
                str(arguments.steps),
                f"{whole:.1f}",
                f"{source.waited:.2f}",
                f"{source.waited / whole:.2%}",
            ]
        ],
    )
    command = " ".join(["python benchmarks/waiting.py", *sys.argv[1:]])
    write("waiting", "Waiting for data: CNN-small, TRADES-10, batch 128", command, [row], text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=391, help="an epoch has 391")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
