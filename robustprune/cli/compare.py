"""Print the final metrics of runs side by side.

Networks of one name stand below each other; then follows every option in which recipes differ.

  robustprune compare runs/quickstart/<id> runs/quickstart/<other id>
  robustprune compare benchmarks/results/quickstart/seed-*.json
  robustprune compare mlflow:quickstart runs/quickstart/<id>

Runs whose recipes differ only in their seed are one row: the mean, and how many there are.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli.arguments import add_runs, run_folders

if TYPE_CHECKING:  # rich comes with it
    from robustprune.tracking import Console

add_arguments = add_runs


def command(arguments: Namespace) -> None:
    """Print the runs' final metrics, and what their recipes differ in."""
    from robustprune.tracking import Console

    with run_folders(arguments) as folders:
        compare(folders, Console())


def compare(folders: Iterable[Path], console: Console) -> None:
    """Print runs side by side: of runs that differ only in their seeds, one row per network."""
    from robustprune.report.groups import grouped
    from robustprune.report.runs import read_run
    from robustprune.report.tables import comparison, differences_table, intervals, runs_table

    unique = {path.resolve(): path for path in folders}.values()
    groups = grouped([read_run(path) for path in unique])
    tables = [runs_table(groups), comparison(groups), differences_table(groups)]
    for table in tables:
        if table.rows:
            console.table(table.caption, table.columns, table.rows)
            console.info("")
    if words := intervals(groups):
        console.info(f"accuracies in percent with their 95 % interval: {words}")
    if len(groups) > 1 and not tables[-1].rows:
        console.info("the recipes do not differ")
    for group in groups:
        for run in group.runs:
            for shortcoming in run.shortcomings:
                say = console.error if run.unsound else console.warn
                say(f"{group.label}, seed {run.results.seed}: {shortcoming}.")
