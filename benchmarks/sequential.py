"""Savings of sequential certification against the fixed number of samples, and where they differ.

    python benchmarks/sequential.py runs/cifar10-cnn-small-stability/<id>

Reads the images.parquet of each network of a run of recipes/*/cnn_small_stability.yaml, in which
`smoothing` draws its n samples for every image and `smoothing_r<radius>` settles one radius each,
and writes benchmarks/results/<recipe>/sequential.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from robustprune.pipeline.run_folder import RunFolder, read_json

RESULTS = Path(__file__).parent / "results"
RADII = ("0.25", "0.5")


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    results = read_json(folder.results, {})
    lines = [
        f"# {results['recipe']}: sequential certification",
        "",
        f"`python benchmarks/sequential.py RUN`, RUN being `seed-{results['seed']}.json`'s.",
        "",
        "Samples an image, selection included, against those of the fixed mode, and the share of "
        "the images that one of them certifies and the other does not.",
        "",
        "| network | radius | images | certified, fixed | sequential | samples, fixed | sequential "
        "| verdicts that differ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for entry in results["networks"]:
        table = pd.read_parquet(folder.images(entry["name"])).dropna()
        lines += [row(entry["name"], table, radius) for radius in RADII]
    text = "\n".join([*lines, ""])
    (RESULTS / results["recipe"] / "sequential.md").write_text(text)
    print(text)


def row(network: str, table: pd.DataFrame, radius: str) -> str:
    """One network at one radius."""
    fixed, sequential = (table[name].astype(bool) for name in (f"smoothing_{radius}", _own(radius)))
    drawn = table["smoothing_samples"].mean(), table[f"{_own(radius)}_samples"].mean()
    values = [
        *(f"{value:.1%}" for value in (fixed.mean(), sequential.mean())),
        *(f"{value:,.0f}" for value in drawn),
        f"{(fixed != sequential).mean():.1%}",
    ]
    return f"| {network} | {radius} | {len(table)} | {' | '.join(values)} |"


def _own(radius: str) -> str:
    return f"smoothing_r{radius}"


if __name__ == "__main__":
    main()
