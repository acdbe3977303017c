"""Parts of sparse.py beside plain passes: what attacks, certificates and training gain.

Each part yields cells: what names a measurement, and the function that makes it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from prepared import STAGES, prepared
from sparse_limits import limits
from sparse_networks import (
    LAYOUTS,
    NETWORKS,
    Network,
    faster_torch,
    gradient,
    logits,
    networks,
    ours,
    timed,
    torch_threads,
)
from sparse_report import EXACT, EXACT_GRADIENT
from torch import Tensor

from robustprune import evaluators, objectives
from robustprune.adapters.smoothing import ROUND, Smoothed
from robustprune.datasets import Splits
from robustprune.datasets import create as create_dataset
from robustprune.datasets.source import TensorSource, TrainingBatch
from robustprune.models import create_model
from robustprune.recipe import StageOptions
from robustprune.timing import alternate
from robustprune.tracking import Console
from robustprune.training.loop import Trainer
from robustprune.types import Batch

Cells = Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]
EPS, STEP, SIGMA, BETA = 8 / 255, 2 / 255, 0.25, 6.0
ATTACKS = {"pgd": 0.01, "autoattack": 0.05}
"""Evaluators, and the density of the network that each attacks where no file is given."""
TRAINED = ("resnet18_cifar", "vgg16_bn_cifar")
FINETUNED = (0.05, 0.01)
ALONE = 200  # images that are also passed one by one


def attacks(arguments: argparse.Namespace) -> Cells:
    """PGD-50 and AutoAttack by the project's evaluators."""
    count = arguments.images or 32
    for threads, (name, density) in itertools.product(arguments.threads, ATTACKS.items()):
        for network in networks(["vgg16_bn_cifar"], [density], arguments.network):
            key = {**network.key, "attack": name, "images": count, "threads": threads}
            yield key, partial(_attacked, arguments, network, name, count, threads)


def smoothing(arguments: argparse.Namespace) -> Cells:
    """Noisy copies of an image, as the certifier classifies and counts them."""
    count = arguments.images or 1000
    for threads in arguments.threads:
        for network in networks(["vgg16_bn_cifar"], [0.01], arguments.network):
            key = {**network.key, "samples": count, "threads": threads}
            yield key, partial(_smoothed, arguments, network, count, threads)


def gradients(arguments: argparse.Namespace) -> Cells:
    """Passes, and back to the images."""
    for network in networks(arguments.networks, arguments.densities, arguments.network):
        for batch, threads in itertools.product(arguments.batches, arguments.threads):
            key = {**network.key, "batch": batch, "threads": threads}
            yield key, partial(_gradients, arguments, network, batch, threads)


def bf16(arguments: argparse.Namespace) -> Cells:
    """Whole steps of TRADES-10 on a dense network, in both layouts of images and weights."""
    names, batch = [name for name in arguments.networks if name in TRAINED], _batch(arguments)
    for name, threads in itertools.product(names, arguments.threads):
        key = {"network": name, "batch": batch, "threads": threads}
        yield key, partial(_precisions, arguments, name, batch, threads)


def finetune(arguments: argparse.Namespace) -> Cells:
    """Whole steps of TRADES-10 on the kept weights of VGG16."""
    batch = _batch(arguments)
    for density, threads in itertools.product(FINETUNED, arguments.threads):
        key = {"network": "vgg16_bn_cifar", "density": density, "batch": batch, "threads": threads}
        yield key, partial(_finetuned, arguments, density, batch, threads)


def accuracy(arguments: argparse.Namespace) -> Cells:
    """Classes and logits of CIFAR-10's test images."""
    count = arguments.images or 10_000
    names = [name for name in arguments.networks if NETWORKS[name]["num_classes"] == 10]
    for network in networks(names, arguments.densities, arguments.network):
        for threads in arguments.threads:
            key = {**network.key, "images": count, "threads": threads}
            yield key, partial(_compared, arguments, network, count, threads)


PARTS: dict[str, Callable[[argparse.Namespace], Cells]] = {
    "attacks": attacks,
    "smoothing": smoothing,
    "gradients": gradients,
    "bf16": bf16,
    "finetune": finetune,
    "accuracy": accuracy,
    "limits": limits,
}


def _attacked(
    arguments: argparse.Namespace, network: Network, name: str, count: int, threads: int
) -> dict[str, Any]:
    images = _cifar10(arguments.data, count) if arguments.data else (network.images(count), None)
    pixels, labels = images
    if labels is None:  # of random images: what the network says, so that there is work to do
        labels = logits(network.saved.model, pixels).argmax(1)
    evaluator = evaluators.create(name, eps=EPS)
    size = evaluator.batch_size
    verdicts: dict[str, Tensor] = {}

    def attack(side: str, model: torch.nn.Module, pixels: Tensor) -> None:
        batches = map(Batch, itertools.count(), pixels.split(size), labels.split(size))
        parts = evaluator.evaluate(model, batches, seed=0, network="")
        verdicts[side] = torch.cat([part[evaluator.metric] for part in parts])

    layout, *torch_side = faster_torch(network, pixels[:size], threads, gradient)
    own = ours(network, pixels[:size], threads)
    with_layout = pixels.to(memory_format=LAYOUTS[layout])
    sides = {
        "torch": timed(partial(attack, "torch", torch_side[0], with_layout), threads),
        "ours": timed(partial(attack, "ours", own, pixels), threads),
    }
    times = alternate(sides, rounds=arguments.rounds, seconds=0)
    return {
        "torch_layout": layout,
        "robust": {side: int(found.sum()) for side, found in verdicts.items()},
        "different_verdicts": int((verdicts["torch"] != verdicts["ours"]).sum()),
        "times": times,
    }


def _smoothed(
    arguments: argparse.Namespace, network: Network, count: int, threads: int
) -> dict[str, Any]:
    example = network.images(ROUND)
    layout, dense, _ = faster_torch(network, example, threads, logits)
    models = {"torch": dense, "ours": ours(network, example, threads)}
    image = example[:1]
    counts: dict[str, Tensor] = {}

    def sample(side: str) -> None:
        classes = logits(models[side], image).shape[1]
        smoothed = Smoothed(models[side], classes, SIGMA)
        counts[side] = smoothed.sample_under_noise(image, count, "estimation")

    sides = {side: timed(partial(sample, side), threads) for side in models}
    times = alternate(sides, rounds=arguments.rounds, seconds=0)
    moved = int((counts["torch"] - counts["ours"]).abs().sum()) // 2
    return {"torch_layout": layout, "different_samples": moved, "times": times}


def _gradients(
    arguments: argparse.Namespace, network: Network, batch: int, threads: int
) -> dict[str, Any]:
    images = network.images(batch)
    layout, *torch_side = faster_torch(network, images, threads, gradient)
    own = ours(network, images, threads)
    sides = {
        "torch": timed(partial(gradient, *torch_side), threads),
        "ours": timed(partial(gradient, own, images), threads),
    }
    times = alternate(sides, rounds=arguments.rounds, seconds=arguments.seconds)
    exact = gradient(copy.deepcopy(network.saved.model).double(), images.double())
    found = {"torch": gradient(*torch_side), "ours": gradient(own, images)}
    differences = {k: float((v - exact).norm() / exact.norm()) for k, v in found.items()}
    # a unit at zero to rounding passes a gradient on or does not, in torch too
    wrong = not differences["ours"] <= max(EXACT_GRADIENT, 10 * differences["torch"])
    return {"torch_layout": layout, "differences": differences, "wrong": wrong, "times": times}


def _compared(
    arguments: argparse.Namespace, network: Network, count: int, threads: int
) -> dict[str, Any]:
    images, _ = _cifar10(arguments.data, count)
    found: dict[str, float] = {"difference": 0.0, "different_classes": 0, "beyond_rounding": 0}
    with torch_threads(threads):
        for batch, some in ((128, images), (1, images[:ALONE])):
            own = ours(network, images[:batch], threads)
            for part in some.split(batch):
                expected, given = logits(network.saved.model, part), logits(own, part)
                scale = expected.abs().max()
                two = expected.topk(2, dim=1).values
                close = (two[:, 0] - two[:, 1]) <= 2 * EXACT * scale
                other = expected.argmax(1) != given.argmax(1)
                largest = float((given - expected).abs().max() / scale)
                found["difference"] = max(found["difference"], largest)
                found["different_classes"] += int(other.sum())
                found["beyond_rounding"] += int((other & ~close).sum())
    wrong = found["difference"] > EXACT or found["beyond_rounding"] > 0
    return {**found, "wrong": wrong}


def _precisions(
    arguments: argparse.Namespace, name: str, batch: int, threads: int
) -> dict[str, Any]:
    def steps(layout: str, precision: str, count: int) -> list[float]:
        with torch_threads(threads):
            return trained(name, batch, layout, count, precision=precision)

    sides = {
        f"{precision.replace('no', 'fp32')} {layout}": partial(steps, layout, precision)
        for layout in LAYOUTS
        for precision in ("no", "bf16")
    }
    return {"times": alternate(sides, rounds=arguments.rounds, seconds=0)}


def _finetuned(
    arguments: argparse.Namespace, density: float, batch: int, threads: int
) -> dict[str, Any]:
    def steps(layout: str, choices: Path | None, count: int) -> list[float]:
        options = {"density": density, "choices": choices}
        with torch_threads(threads):  # in the first step of a training kernels are loaded
            return trained("vgg16_bn_cifar", batch, layout, count + 1, **options)[1:]

    with TemporaryDirectory() as folder:
        choices = Path(folder) / "choices.json"
        sides = {f"torch {layout}": partial(steps, layout, None) for layout in LAYOUTS}
        sides["ours"] = partial(steps, "contiguous", choices)
        times = alternate(sides, rounds=arguments.rounds, seconds=0)
        return {"choices": json.loads(choices.read_text()), "times": times}


def trained(
    name: str,
    batch: int,
    layout: str,
    steps: int,
    *,
    precision: str = "no",
    density: float | None = None,
    choices: Path | None = None,
) -> list[float]:
    """Seconds of TRADES-10 steps of the project's own loop.

    Args:
        name: of the network.
        batch: images of a step.
        layout: one of `LAYOUTS`.
        steps: how many.
        precision: accelerate's name of it.
        density: of a pruned network, which is finetuned; a dense one is trained.
        choices: file of what sparse kernels are used for; without it they are not used.
    """
    source = Clocked(torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10, steps)
    network = create_model(name, num_classes=10).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    options = dict.fromkeys(STAGES, StageOptions(epochs=1, batch_size=batch))
    kind = "pretrain" if density is None else "finetune"
    stage, masked, method = prepared(network, kind, density=density or 1.0, options=options)
    AcceleratorState._reset_state(reset_partial_state=True)  # precision is global to a process
    trainer = Trainer(
        accelerator=Accelerator(cpu=True, mixed_precision=precision),
        memory_format=LAYOUTS[layout],
        objective=objectives.create("trades", eps=EPS, step_size=STEP, beta=BETA),
        data=Splits(source, None, None, num_classes=10, channels=3, image_size=32),
        seed=0,
        console=Console(quiet=True),
        sparse=None if choices is None else lambda network, stage: choices,
    )
    with TemporaryDirectory() as folder:
        trainer.train(name, stage, masked, method, Path(folder) / "state.pt")
    return source.times


class Clocked(TensorSource):
    """One batch again and again; whoever waits for the next one is clocked."""

    def __init__(self, images: Tensor, labels: Tensor, steps: int) -> None:
        super().__init__(images, labels)
        self.count, self.times = steps, list[float]()

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        return self.count

    def batches(self, batch_size: int, **options: Any) -> Iterator[TrainingBatch]:
        for _ in range(self.count):
            began = perf_counter()
            yield TrainingBatch(self.images, self.labels, len(self.labels))
            self.times.append(perf_counter() - began)


def _batch(arguments: argparse.Namespace) -> int:
    """Images of a training step: the paper's, if no single number is asked for."""
    return arguments.batches[0] if len(arguments.batches) == 1 else 128


def _cifar10(folder: Path | None, count: int) -> tuple[Tensor, Tensor]:
    test = create_dataset("cifar10", root=folder).load(seed=0, train=False).test
    assert test is not None
    images, labels = zip(*test.ordered(250, limit=count), strict=True)
    return torch.cat(images), torch.cat(labels)
