"""Prune steps on certified bounds, beside auto-LiRPA on the plain network and the reference.

    python benchmarks/bounds.py
    python benchmarks/bounds.py --reference PATH

At beta 0, where HYDRA prunes, the floor is auto-LiRPA's IBP on a plain dense network, called
directly: a clean forward, the bounds on the margins, backward and SGD. At beta 0.5 the side to
compare with is the prune step of the reference (PATH: a checkout of
https://github.com/inspire-group/hydra), which is what its trainer does.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from prepared import prepared
from ratio import alternate, ratio, table, write
from step import REFERENCE
from torch import Tensor

from robustprune.adapters.lirpa_library import lirpa
from robustprune.models import create_model
from robustprune.objectives import create
from robustprune.types import Progress

EPS, DENSITY = 2 / 255, 0.1
PROGRESS = {0.0: Progress(stage="prune"), 0.5: Progress(fraction=0.5, epochs=2)}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.reference:
        sys.path.insert(0, str(arguments.reference))
    images = torch.rand(arguments.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(arguments.batch) % 10
    rows = []
    for model in arguments.models:
        for beta in PROGRESS:
            sides = {"ours": ours(model, beta, images, labels)}
            if beta == 0:
                sides["auto-LiRPA"] = floor(model, images, labels)
            else:
                sides["ours, fused"] = ours(model, beta, images, labels, fusion=True)
            if arguments.reference:
                sides["reference"] = reference(model, beta, images, labels)
            times = alternate(sides, rounds=arguments.rounds)
            row: dict[str, Any] = {"model": model, "beta": beta, "times": times}
            row |= {side: ratio(times, "ours", side) for side in sides if side != "ours"}
            rows.append(row)
    others = ("auto-LiRPA", "reference", "ours, fused")
    cells = [
        [row["model"], f"{row['beta']:g}", f"{statistics.median(row['times']['ours']):.3f}"]
        + [f"{row[side]:.3f}" if side in row else "" for side in others]
        for row in rows
    ]
    text = f"Batch {arguments.batch}, density {DENSITY:g}.\n\n" + table(
        ["network", "beta", "s a step", *(f"× {side}" for side in others)], cells
    )
    command = " ".join(["python benchmarks/bounds.py", *sys.argv[1:]])
    write(arguments.label, "Prune steps on certified bounds", command, rows, text)


def ours(
    name: str, beta: float, images: Tensor, labels: Tensor, *, fusion: bool = False
) -> Callable[[], None]:
    """The objective on masked weights, and SGD on the scores."""
    objective = create("crown_ibp", eps=EPS, ramp={"epochs": 2}, fusion=fusion)
    pruning = prepared(create_model(name, num_classes=10), density=DENSITY)
    masked = pruning.masked
    optimizer = torch.optim.SGD(pruning.trained, lr=1e-3, momentum=0.9)

    def step() -> None:
        with masked.cached():
            objective(masked.model, images, labels, PROGRESS[beta]).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruning.select()

    return step


def floor(name: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """auto-LiRPA's IBP on the plain network, as its own examples train with it."""
    library = lirpa()
    model = create_model(name, num_classes=10)
    bounded = library.BoundedModule(copy.deepcopy(model), images[:1])
    optimizer = torch.optim.SGD(bounded.parameters(), lr=1e-3, momentum=0.9)
    rows = torch.eye(10)[labels].unsqueeze(1) - torch.eye(10).unsqueeze(0)
    others = labels.unsqueeze(1) != torch.arange(10).unsqueeze(0)
    rows = rows[others].view(len(labels), 9, 10)
    lower, upper = (images - EPS).clamp(0, 1), (images + EPS).clamp(0, 1)
    norm = library.PerturbationLpNorm(norm=float("inf"), eps=EPS, x_L=lower, x_U=upper)
    ball, target = library.BoundedTensor(images, norm), torch.zeros_like(labels)

    def step() -> None:
        bounded(images)
        margins, _ = bounded.compute_bounds(x=(ball,), C=rows, method="IBP", bound_upper=False)
        truth = margins.new_zeros(len(margins), 1)
        F.cross_entropy(torch.cat([truth, -margins], 1), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def reference(name: str, beta: float, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A prune step of the reference's CROWN-IBP trainer."""
    layers, utils, crown, models = (
        importlib.import_module(module)
        for module in ("models.layers", "utils.model", "crown.bound_layers", "models")
    )
    build = getattr(models, REFERENCE[name])
    network = build(layers.SubnetConv, layers.SubnetLinear, "kaiming_normal")
    utils.set_prune_rate_model(network, DENSITY)
    utils.initialize_scaled_score(network)
    options = {"same-slope": False, "zero-lb": False, "one-lb": False}
    model = crown.BoundSequential.convert(network, options)
    scores = [p for n, p in model.named_parameters() if "popup_scores" in n]
    optimizer = torch.optim.SGD(scores, lr=1e-3, momentum=0.9)
    eye = torch.eye(10)
    others = labels.unsqueeze(1) != torch.arange(10).unsqueeze(0)
    rows = (eye[labels].unsqueeze(1) - eye.unsqueeze(0))[others].view(len(labels), 9, 10)
    places = torch.arange(10).repeat(len(labels), 1)[others].view(len(labels), 9)
    box = {
        "x_U": torch.min(images + EPS, images.max()),
        "x_L": torch.max(images - EPS, images.min()),
    }

    def step() -> None:
        model(images, method_opt="forward")
        call = {**box, "norm": np.inf, "eps": EPS, "C": rows}
        _, interval, *_ = model(method_opt="interval_range", **call)
        lower = interval
        if beta:
            _, _, linear, _ = model(method_opt="backward_range", **call)
            lower = linear * beta + interval * (1 - beta)
        lower = torch.zeros(len(labels), 10).scatter(1, places, lower)
        optimizer.zero_grad()
        F.cross_entropy(-lower, labels).backward()
        optimizer.step()

    return step


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["cnn_small", "cnn_large"]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=Path, metavar="PATH")
    parser.add_argument("--label", default="bounds", help="name of the files that are written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
