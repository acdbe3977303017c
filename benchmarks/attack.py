"""PGD with restarts and AutoAttack as evaluators, beside calling torchattacks directly.

    python benchmarks/attack.py MODEL
    python benchmarks/attack.py MODEL --samples 500

MODEL is a network trained on CIFAR-10, e.g. the dense one of recipes/cifar10/cnn_small_trades.yaml.
The direct side attacks every image from every start, as a loop over torchattacks does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torchattacks
from ratio import alternate, ratio, table, write
from torch import Tensor, nn

from robustprune.artifacts.reading import read_model
from robustprune.datasets import create as create_dataset
from robustprune.evaluators import create
from robustprune.types import Batch

EPS, STEPS, RESTARTS, BATCH = 8 / 255, 50, 10, 250


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model = read_model(arguments.model).model
    test = create_dataset("cifar10").load(seed=0, train=False).test
    batches = list(test.ordered(BATCH, limit=arguments.samples))
    options = {"eps": EPS, "samples": arguments.samples, "batch_size": BATCH}
    evaluators = {
        "pgd": create("pgd", steps=STEPS, restarts=RESTARTS, **options),
        "autoattack": create("autoattack", steps=10, **options),
    }
    direct = {"pgd": pgd, "autoattack": autoattack}
    rows = []
    for name, evaluator in evaluators.items():
        found: dict[str, float] = {}

        def ours(evaluator: Any = evaluator, found: dict[str, float] = found) -> None:
            ordered = (Batch(number, *batch) for number, batch in enumerate(batches))
            parts = evaluator.evaluate(model, ordered, seed=0, network="")
            found["ours"] = _accuracy([part[evaluator.metric] for part in parts])

        def theirs(name: str = name, found: dict[str, float] = found) -> None:
            found["direct"] = _accuracy([direct[name](model, *batch) for batch in batches])

        times = alternate({"ours": ours, "direct": theirs}, rounds=arguments.rounds, warm_up=0)
        rows.append({"attack": name, "time": ratio(times, "ours", "direct"), **found})
        rows[-1]["times"] = times
    with torch.no_grad():
        clean = _accuracy([model(images).argmax(1) == labels for images, labels in batches])
    cells = [
        [r["attack"], f"{r['time']:.3f}", f"{r['ours']:.3f}", f"{r['direct']:.3f}"] for r in rows
    ]
    text = (
        f"{arguments.samples} images of CIFAR-10, clean accuracy {clean:.3f}; PGD-{STEPS} with "
        f"{RESTARTS} restarts, AutoAttack with 10 steps, both at 8/255.\n\n"
    ) + table(["attack", "time × direct", "accuracy", "accuracy, direct"], cells)
    words = [a for a in sys.argv[1:] if a != str(arguments.model)]
    command = " ".join(["python benchmarks/attack.py MODEL", *words])
    write("attack", "Attacks", command, rows, text)


def pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Images left after every image was attacked from every start."""
    attack = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=True)
    robust = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(RESTARTS):
        perturbed = attack(images, labels)
        with torch.no_grad():
            robust &= model(perturbed).argmax(1) == labels
    return robust


def autoattack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Images left after the library's AutoAttack."""
    perturbed = torchattacks.AutoAttack(model, eps=EPS, n_classes=10, seed=0)(images, labels)
    with torch.no_grad():
        return model(perturbed).argmax(1) == labels


def _accuracy(right: list[Tensor]) -> float:
    return float(torch.cat(right).double().mean())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
