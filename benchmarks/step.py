"""Cost of a training step, beside the least that its objective needs on a dense network.

    python benchmarks/step.py
    python benchmarks/step.py --models cnn_small --stages prune --objectives trades
    python benchmarks/step.py --models cnn_small vgg16_bn_cifar --reference PATH --memory

Our side is the loop itself, with a source that hands out one batch again and again; while it waits
for the next batch, the other sides take a step. The floor, written out in floors.py, is a dense
network of the same shape in the same memory format. PATH is a checkout of
https://github.com/inspire-group/hydra, whose own prune step (TRADES only) then takes turns, too.
With --memory each side runs once more, alone in a process of its own, for the growth of its peak.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from floors import BETA, EPS, OBJECTIVES, SIGMA, STEP, reference_step, step_of
from prepared import prepared
from ratio import Peak, Times, ratio, table, write
from torch import nn

from robustprune.components import build
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource, TrainingBatch
from robustprune.models import create_model
from robustprune.recipe import Recipe
from robustprune.tracking import Console
from robustprune.training.loop import Trainer
from robustprune.types import Images

MODELS = ("cnn_small", "cnn_large", "vgg16_bn_cifar", "resnet18_cifar", "wrn_28_4")
ROUNDS = {"cnn_small": 15, "cnn_large": 5}  # of the others 3
REFERENCE = {"cnn_small": "cifar_model", "cnn_large": "cifar_model_large"} | {
    "vgg16_bn_cifar": "vgg16_bn",
    "resnet18_cifar": "resnet18",
    "wrn_28_4": "wrn_28_4",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "benign": {},
    "pgd": {"eps": EPS, "step_size": STEP},
    "trades": {"eps": EPS, "step_size": STEP, "beta": BETA},
    "stability": {"sigma": SIGMA, "beta": BETA},
}
Step = Callable[[], object]


class Clocked(TensorSource):
    """One batch, again and again; whoever waits for the next one is clocked, then the others."""

    def __init__(self, batch: Images, steps: int, others: dict[str, Step]) -> None:
        super().__init__(batch.images, batch.labels)
        self.count, self.others = steps, others
        self.times: Times = {"ours": [], **{name: [] for name in others}}

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        return self.count

    def batches(self, batch_size: int, **options: Any) -> Iterator[TrainingBatch]:
        for _ in range(self.count):
            start = perf_counter()
            yield TrainingBatch(self.images, self.labels, len(self.labels))
            self.times["ours"].append(perf_counter() - start)
            for name, other in self.others.items():
                start = perf_counter()
                other()
                self.times[name].append(perf_counter() - start)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.reference:
        sys.path.insert(0, str(arguments.reference))
    if arguments.alone:
        print(json.dumps(alone(arguments)))
        return
    rows = []
    for model, objective in itertools.product(arguments.models, arguments.objectives):
        for stage, density in _settings(arguments):
            row = measure(arguments, model, objective, stage, density)
            rows.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "times"}), flush=True)
    command = " ".join(["python benchmarks/step.py", *_shown(arguments)])
    write(arguments.label, "Steps", command, rows, report(arguments, rows))


def measure(
    arguments: argparse.Namespace, model: str, objective: str, stage: str, density: float
) -> dict[str, Any]:
    """One network in one stage under one objective; all sides by turns."""
    others = {"floor": floor(arguments, model, objective)}
    if arguments.reference and (objective, stage) == ("trades", "prune"):
        others["reference"] = reference(arguments, model, density)
    rounds = arguments.rounds or ROUNDS.get(model, 3)
    times = ours(arguments, model, objective, stage, density, rounds + 1, others)
    times = {name: values[1:] for name, values in times.items()}
    row = {"model": model, "objective": objective, "stage": stage, "density": density}
    row |= {"seconds": statistics.median(times["ours"]), "times": times}
    row |= {name: ratio(times, "ours", name) for name in others}
    if arguments.memory:
        setting = (model, objective, stage, density)
        row["mib"] = {side: _peak_of(arguments, side, *setting) for side in times}
    return row


def ours(
    arguments: argparse.Namespace,
    model: str,
    objective: str,
    stage: str,
    density: float,
    steps: int,
    others: dict[str, Step],
) -> Times:
    """Steps of our loop, in a recipe's own stage."""
    network = _placed(arguments, create_model(model, num_classes=10))
    options = {"batch_size": arguments.batch, "epochs": 1, "optimizer": {"lr": 1e-3}}
    document = {
        "name": "step",
        "data": "cifar10",
        "model": model,
        "pretrain": options,
        "objective": {"name": objective, **OPTIONS[objective]},
        "prune": {**options, "methods": ["hydra"], "densities": [density]},
        "finetune": options,
    }
    recipe = build(Recipe, document)
    stage, masked, method = prepared(network, stage, density=density, options=recipe.stages)
    source = Clocked(_batch(arguments), steps, others)
    trainer = Trainer(
        accelerator=Accelerator(cpu=True),
        memory_format=_format(arguments),
        objective=recipe.objective,  # type: ignore[arg-type]
        data=Splits(source, None, None, num_classes=10, channels=3, image_size=32),
        seed=0,
        console=Console(quiet=True),
    )
    with TemporaryDirectory() as folder:
        trainer.train(model, stage, masked, method, Path(folder) / "state.pt")
    return source.times


def floor(arguments: argparse.Namespace, model: str, objective: str) -> Step:
    """A step of a dense network in plain PyTorch."""
    network = _placed(arguments, create_model(model, num_classes=10))
    images, labels = _batch(arguments)
    return step_of(OBJECTIVES[objective], network, images, labels)


def reference(arguments: argparse.Namespace, model: str, density: float) -> Step:
    """A prune step of the reference."""
    layers, utils = (importlib.import_module(name) for name in ("models.layers", "utils.model"))
    options = {} if "model" in REFERENCE[model] else {"num_classes": 10}
    make = getattr(importlib.import_module("models"), REFERENCE[model])
    network = make(layers.SubnetConv, layers.SubnetLinear, "kaiming_normal", **options)
    utils.set_prune_rate_model(network, density)
    for name in ("weight", "bias"):
        utils.freeze_vars(network, name, False)
    utils.unfreeze_vars(network, "popup_scores")
    utils.initialize_scaled_score(network)
    loss = importlib.import_module("utils.adv").trades_loss
    images, labels = _batch(arguments)
    return reference_step(network, loss, images.contiguous(), labels)


def alone(arguments: argparse.Namespace) -> float:
    """By how many MiB one side's steps raise this process's peak."""
    side, model, objective, stage, density = json.loads(arguments.alone)
    floor(arguments, "cnn_small", objective)()  # threads and libraries take their own
    importlib.import_module("torchattacks")
    peak = Peak()
    if side == "ours":
        ours(arguments, model, objective, stage, density, 2, {})
    else:
        step = (
            floor(arguments, model, objective)
            if side == "floor"
            else reference(arguments, model, density)
        )
        for _ in range(2):
            step()
    return peak.mib()


def _peak_of(arguments: argparse.Namespace, *setting: Any) -> float:
    command = [sys.executable, __file__, "--alone", json.dumps(setting), *_shown(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    sides = [side for side in ("floor", "reference") if any(side in row for row in rows)]
    heads = ["network", "objective", "stage", "density", "s a step", *(f"× {s}" for s in sides)]
    heads += [f"MiB, {side}" for side in ("ours", *sides)] if arguments.memory else []
    cells = []
    for row in rows:
        times = [f"{row['seconds']:.3g}", *(f"{row[s]:.3f}" if s in row else "" for s in sides)]
        density = "" if row["stage"] == "pretrain" else f"{row['density']:g}"
        memory = [f"{row['mib'][s]:.0f}" if s in row["mib"] else "" for s in ("ours", *sides)] if (
            arguments.memory
        ) else []  # fmt: skip
        cells.append([row["model"], row["objective"], row["stage"], density, *times, *memory])
    about = (
        f"Batch {arguments.batch}, {'channels-last' if arguments.channels_last else 'contiguous'}. "
        "Medians, and ratios of medians of sides that took turns."
    )
    return f"{about}\n\n{table(heads, cells)}"


def _settings(arguments: argparse.Namespace) -> list[tuple[str, float]]:
    """Stages and densities; a dense network has one density."""
    found = [(p, d) for p in arguments.stages for d in arguments.densities if p != "pretrain"]
    return [("pretrain", 1.0), *found] if "pretrain" in arguments.stages else found


def _batch(arguments: argparse.Namespace) -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(arguments.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (arguments.batch,), generator=generator)
    return Images(images.to(memory_format=_format(arguments)), labels)


def _placed(arguments: argparse.Namespace, network: nn.Module) -> nn.Module:
    return network.to(memory_format=_format(arguments))  # type: ignore[call-overload]


def _format(arguments: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def _shown(arguments: argparse.Namespace) -> list[str]:
    """The options as they would be typed."""
    words = []
    for key, value in vars(arguments).items():
        option = f"--{key.replace('_', '-')}"
        if key == "alone" or value in (None, False):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [option, *map(str, values)]
    return words


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--objectives", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    stages = ["pretrain", "prune", "finetune"]
    parser.add_argument("--stages", nargs="+", default=stages, choices=stages)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.01])
    parser.add_argument("--rounds", type=int, help="turns of each side (default: by network)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--memory", action="store_true", help="measure peaks, too")
    parser.add_argument("--reference", type=Path, metavar="PATH")
    parser.add_argument("--label", default="step", help="name of the files that are written")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
