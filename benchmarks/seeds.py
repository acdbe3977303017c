"""Run a recipe for several seeds, and tabulate what pruning methods gain over each other.

    python benchmarks/seeds.py recipes/quickstart.yaml --seeds 0 1 2
    python benchmarks/seeds.py recipes/quickstart.yaml --table-only

Runs go to runs/benchmarks/<recipe>/seed-<n>/ and are resumed if they were interrupted; each
results.json is copied to benchmarks/results/<recipe>/seed-<n>.json, and README.md beside them is
written from those copies alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from robustprune.evaluators.accuracy import measured
from robustprune.pipeline import run
from robustprune.recipe import load_recipe
from robustprune.tracking import Console

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = _arguments()
    recipe = load_recipe(arguments.recipe, arguments.set)
    folder = RESULTS / recipe.name
    for seed in [] if arguments.table_only else arguments.seeds:
        out = Path("runs") / "benchmarks" / recipe.name / f"seed-{seed}"
        overrides = [*arguments.set, f"seed={seed}"]
        result = run(
            arguments.recipe, overrides=overrides, out=out, resume=out.exists(), console=Console()
        )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result.folder / "results.json", folder / f"seed-{seed}.json")
    text = report(
        arguments, [json.loads(p.read_text()) for p in sorted(folder.glob("seed-*.json"))]
    )
    (folder / "README.md").write_text(text)
    print(text)


def report(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    """The Markdown page of one recipe: means over seeds, and what is gained over the baseline."""
    seeds = sorted(run["seed"] for run in runs)
    changes = "".join(f" --set {change}" for change in arguments.set)
    names = [entry["name"] for entry in runs[0]["networks"]]
    kinds = measured([entry["metrics"] for entry in runs[0]["networks"]])
    metrics, accuracies = list(kinds), [name for name, fraction in kinds.items() if fraction]
    environment = runs[0]["environment"]
    versions = ", ".join(f"{key} {value}" for key, value in environment.items())
    lines = [
        f"# {runs[0]['recipe']}",
        "",
        f"`robustprune run {arguments.recipe}{changes} --set seed=N`, N in {seeds}.",
        f"{versions}.",
        "",
        "Accuracies in percent, mean over seeds ± standard error of that mean (one seed: half of",
        f"the 95 % interval over its images). Images: {_images(runs[0], metrics)}.",
        "",
        _row(["network", "density", "kept", "turnover", *metrics]),
        _row(["---"] + ["---:"] * (3 + len(metrics))),
        *(_row(_network(runs, name, kinds)) for name in names),
        "",
        f"Gain of {arguments.method} over {arguments.baseline}, in points, mean of the paired",
        "differences ± their standard error. A method that learns its masks trains for the prune",
        "stage's epochs more than one that does not, unless the latter has `equal_compute`.",
        "",
        _row(["density", *accuracies]),
        _row(["---:"] * (1 + len(accuracies))),
        *_gains(runs, accuracies, arguments.method, arguments.baseline),
        "",
    ]
    return "\n".join(lines)


def _network(runs: list[dict[str, Any]], name: str, kinds: dict[str, bool]) -> list[str]:
    entries = [_entry(run, name) for run in runs]
    turnovers = [entry["turnover"] for entry in entries if entry["turnover"] is not None]
    turnover = f"{statistics.mean(turnovers):.3f}" if turnovers else "–"
    cells = [name, f"{entries[0]['density']:g}", f"{entries[0]['kept']:,}", turnover]
    return cells + [
        _accuracy(entries, metric) if fraction else _number(entries, metric)
        for metric, fraction in kinds.items()
    ]


def _number(entries: list[dict[str, Any]], metric: str) -> str:
    return f"{statistics.mean(entry['metrics'][metric] for entry in entries):.4g}"


def _accuracy(entries: list[dict[str, Any]], metric: str) -> str:
    values = [100 * entry["metrics"][metric] for entry in entries]
    if len(values) == 1:
        low, high = entries[0]["metrics"][f"{metric}_interval"]
        return f"{values[0]:.1f} ± {50 * (high - low):.1f}"
    return _mean(values)


def _gains(runs: list[dict[str, Any]], metrics: list[str], method: str, baseline: str) -> list[str]:
    densities = dict.fromkeys(e["density"] for e in runs[0]["networks"] if e["name"] != "dense")
    rows = []
    for density in densities:
        pairs = [
            (_entry(run, f"{method}-{density:g}"), _entry(run, f"{baseline}-{density:g}"))
            for run in runs
        ]
        gains = [[100 * (a["metrics"][m] - b["metrics"][m]) for a, b in pairs] for m in metrics]
        rows.append(_row([f"{density:g}", *map(_mean, gains)]))
    return rows


def _mean(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _images(run: dict[str, Any], metrics: list[str]) -> str:
    measured = run["networks"][0]["metrics"]
    return ", ".join(f"{metric} {measured[f'{metric}_n']}" for metric in metrics)


def _entry(run: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in run["networks"] if entry["name"] == name)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table-only", action="store_true", help="only rewrite the table")
    parser.add_argument("--method", default="hydra")
    parser.add_argument("--baseline", default="magnitude")
    return parser.parse_args()


if __name__ == "__main__":
    main()
