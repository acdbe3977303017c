"""Our recorded results beside the paper's numbers, put into the page where it asks for them.

``<!-- ours: pgd of trades, pgd -->`` stands for a table of the metric `pgd` of all recorded runs
whose objective is `trades` or `pgd`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pages import table
from recorded import RESULTS, recorded_page

from robustprune.families import metric_of

DENSITIES = (0.1, 0.05, 0.01)
_ASKED = re.compile(r"^<!-- ours: ([\w.-]+) of ([\w, ]+) -->$", re.MULTILINE)
METHODS = {"magnitude": "magnitude", "hydra": "HYDRA"}
_COLUMNS = ("our recipe", "ball", "runs", "method")
_NUMBERS = ("dense", *(f"{density:g}" for density in DENSITIES))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put a table where one is asked for."""
    return _ASKED.sub(lambda match: ours(match[1], match[2].split(", ")), markdown)


def ours(metric: str, objectives: list[str]) -> str:
    """The table: a row a recipe and method, accuracies in percent, the mean over its seeds.

    Raises:
        ValueError: no recorded run has the metric and one of the objectives.
    """
    rows = [
        row
        for folder in sorted(path.parent for path in RESULTS.glob("*/seed-0.json"))
        for row in _rows(folder, metric, objectives)
    ]
    if not rows:
        raise ValueError(f"no recorded run has '{metric}' and one of {', '.join(objectives)}")
    return table((*_COLUMNS, *_NUMBERS), rows, numbers=len(_NUMBERS))


def accuracy(runs: list[dict[str, Any]], metric: str, name: str) -> str:
    """Mean accuracy of a network over the runs, in percent; a dash if it is not in all of them."""
    found = [
        entry["metrics"][metric]
        for run in runs
        for entry in run["networks"]
        if entry["name"] == name and metric in entry["metrics"]
    ]
    return f"{100 * statistics.mean(found):.1f}" if len(found) == len(runs) else "–"


def _rows(folder: Path, metric: str, objectives: list[str]) -> Iterator[list[str]]:
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*.json"))]
    params, dense = runs[0]["params"], runs[0]["networks"][0]["metrics"]
    if params["objective"]["name"] not in objectives or metric not in dense:
        return
    link = f"[{folder.name}]({recorded_page(folder / 'README.md')})"
    about = [link, _threat(params, metric), f"{len(runs)} × {dense[f'{metric}_n']:,}"]
    for method, called in METHODS.items():
        names = ["dense", *(f"{method}-{density:g}" for density in DENSITIES)]
        yield [*about, called, *(accuracy(runs, metric, name) for name in names)]


def _threat(params: dict[str, Any], metric: str) -> str:
    """The ball an evaluator speaks of, as its options in the recipe say."""
    (evaluator,) = [e for e in params["evaluate"] if metric_of(e) == metric]
    if "radius" in evaluator:
        return f"ℓ2 {_fraction(evaluator['radius'])}"
    return f"{'ℓ2' if evaluator.get('norm') == 'l2' else 'ℓ∞'} {_fraction(evaluator['eps'])}"


def _fraction(radius: float) -> str:
    """``8/255`` where it is one, as papers write it."""
    levels = radius * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{radius:g}"
