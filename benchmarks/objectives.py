"""Time and peak memory of a prune step under each objective, on random images.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --models cnn_large --objectives mixtrain crown_ibp --steps 20

Each pair is measured in a process of its own, where it alternates with plain cross-entropy on the
same network: what is reported is the ratio of the median times. Memory is what the process's peak
has grown by since before the first step. Results go to benchmarks/results/objectives/.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from prepared import Prepared, prepared

import robustprune as rp
from robustprune.objectives import Objective
from robustprune.pipeline.results import environment
from robustprune.types import Progress

RESULTS = Path(__file__).parent / "results" / "objectives"
PRUNE = Progress(stage="prune")
HALF = Progress(fraction=0.5, epochs=2)  # half-way up a ramp of two epochs
SETTINGS: dict[str, tuple[str, dict[str, Any], Progress]] = {
    "benign": ("benign", {}, PRUNE),
    "fgsm": ("fgsm", {}, PRUNE),
    "free, a step of 4": ("free", {}, PRUNE),
    "gaussian": ("gaussian", {}, PRUNE),
    "stability": ("stability", {}, PRUNE),
    "smoothadv, m 2, 4 steps": ("smoothadv", {}, PRUNE),
    "pgd, 10 steps": ("pgd", {}, PRUNE),
    "trades, 10 steps": ("trades", {}, PRUNE),
    "ibp": ("ibp", {}, PRUNE),
    "crown_ibp, as HYDRA prunes": ("crown_ibp", {"ramp": {"epochs": 2}}, PRUNE),
    "crown_ibp, beta 0.5": ("crown_ibp", {"ramp": {"epochs": 2}}, HALF),
    "crown_ibp, beta 0.5, fused": ("crown_ibp", {"ramp": {"epochs": 2}, "fusion": True}, HALF),
    "mixtrain": ("mixtrain", {"probability": 1.0}, PRUNE),
}
SAMPLES = {"cnn_small": 5, "cnn_large": 1}
"""MixTrain's k, as HYDRA has it."""


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    rows = []
    for model in arguments.models:
        for setting in [s for s in SETTINGS if SETTINGS[s][0] in arguments.objectives]:
            row = _in_a_process(arguments, model, setting)
            rows.append(row)
            print(json.dumps(row), flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment(torch.device("cpu")), "rows": rows}
    (RESULTS / f"{arguments.label}.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / f"{arguments.label}.md").write_text(report(arguments, document))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One objective on one network, alternating with cross-entropy."""
    (model,), setting = arguments.models, arguments.one
    name, options, progress = SETTINGS[setting]
    if name == "mixtrain":
        options = {**options, "samples": SAMPLES[model]}
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images, labels = torch.rand(arguments.batch, 3, 32, 32), torch.arange(arguments.batch) % 10
    objective, benign = rp.objectives.create(name, **options), rp.objectives.create("benign")
    masked, plain = (prepared(rp.create_model(model, num_classes=10)) for _ in range(2))
    before = _peak()
    times: list[float] = []
    floor: list[float] = []
    losses: list[float] = []
    for _ in range(arguments.warm_up + arguments.steps):
        seconds, loss = _step(objective, masked, images, labels, progress)
        times.append(seconds)
        losses.append(loss)
        floor.append(_step(benign, plain, images, labels, progress)[0])
    step, base = (statistics.median(t[arguments.warm_up :]) for t in (times, floor))
    return {
        "model": model,
        "objective": setting,
        "steps": arguments.steps,
        "seconds": round(step, 4),
        "ratio": round(step / base, 2),
        "peak_mib": round(_peak() - before),
        "finite": all(map(math.isfinite, losses)),
    }


def report(arguments: argparse.Namespace, document: dict[str, Any]) -> str:
    """The table in Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in document["environment"].items())
    lines = [
        f"# Prune steps, batch {arguments.batch}, {arguments.threads} thread(s)",
        "",
        f"`python benchmarks/objectives.py {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        "",
        f"{versions}.",
        "",
        "Times are medians, and as ratios to a step of plain cross-entropy that alternates with "
        "them in the same process; memory is the growth of the process's peak.",
        "",
        "| network | objective | s a step | × benign | peak MiB | steps | loss finite |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["rows"]:
        finite = "yes" if row["finite"] else "NO"
        lines.append(
            f"| {row['model']} | {row['objective']} | {row['seconds']:.3g} | {row['ratio']:.3g} | "
            f"{row['peak_mib']} | {row['steps']} | {finite} |"
        )
    return "\n".join([*lines, ""])


def _in_a_process(arguments: argparse.Namespace, model: str, setting: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", setting, "--models", model]
    for option in ("steps", "warm_up", "batch", "threads"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _step(
    objective: Objective,
    pruning: Prepared,
    images: torch.Tensor,
    labels: torch.Tensor,
    progress: Progress,
) -> tuple[float, float]:
    start, masked = perf_counter(), pruning.masked
    with masked.cached():
        loss = objective(masked.model, images, labels, progress)
        loss.total.backward()
        objective.after_backward()
    with torch.no_grad():
        for scores in masked.scores.values():
            assert scores.grad is not None
            scores -= 0.1 * scores.grad
            scores.grad = None
        pruning.select()
    return perf_counter() - start, float(loss.total.detach())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--models", nargs="+", default=["cnn_small", "cnn_large"])
    names = list(dict.fromkeys(name for name, *_ in SETTINGS.values()))
    parser.add_argument("--objectives", nargs="+", default=names, choices=names)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label", default="table", help="name of the files that are written")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
