"""Noise samples a second of the smoothing certifier, beside a plain loop.

    python benchmarks/certify.py

The plain loop draws the same noise, adds it, classifies, takes the argmax and counts, at the same
batch size. Both give the same counts.
"""

from __future__ import annotations

import argparse
import sys

import torch
from ratio import alternate, ratio, table, write
from torch import Tensor, nn

from robustprune.adapters.smoothing import ROUND, Smoothed
from robustprune.models import create_model

SIGMA = 0.25
MODELS = {"cnn_small": 20_000, "cnn_large": 4_000, "resnet18_cifar": 400}
"""Samples of the one image that is certified."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.models:
        samples, model = MODELS[name], create_model(name, num_classes=10).eval()
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        smoothed = Smoothed(model, 10, SIGMA)

        def ours(smoothed: Smoothed = smoothed, image: Tensor = image, n: int = samples) -> Tensor:
            return smoothed.sample_under_noise(image, n, "estimation")

        def plain(model: nn.Module = model, image: Tensor = image, n: int = samples) -> Tensor:
            return loop(model, image, n)

        assert ours().sum() == plain().sum() == samples
        times = alternate({"ours": ours, "plain": plain}, rounds=arguments.rounds)
        rows.append({"model": name, "samples": samples, "times": times})
        rows[-1]["throughput"] = ratio(times, "plain", "ours")
    cells = []
    for row in rows:
        best = row["samples"] / min(row["times"]["ours"])
        cells.append([row["model"], f"{best:,.0f}", f"{row['throughput']:.3f}"])
    text = f"Samples of one image, {ROUND} at a time.\n\n" + table(
        ["network", "samples a second, at best", "throughput × plain loop"], cells
    )
    command = " ".join(["python benchmarks/certify.py", *sys.argv[1:]])
    write("certify", "Certification", command, rows, text)


@torch.no_grad()
def loop(model: nn.Module, image: Tensor, samples: int) -> Tensor:
    """Counts alone, without anything around it."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10, dtype=torch.int64)
    noise = torch.empty(ROUND, *image.shape[1:])
    for _ in range(samples // ROUND):
        noise.normal_(0, SIGMA, generator=generator)
        counts += model(image + noise).argmax(1).bincount(minlength=10)
    return counts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
