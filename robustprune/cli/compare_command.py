"""``robustprune compare``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from robustprune.cli.runs import run_folders
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print the runs' final metrics, and what their recipes differ in."""
    with run_folders(arguments) as folders:
        compare(folders, Console())


def compare(folders: Iterable[Path], console: Console) -> None:
    """Print runs side by side: those that differ in their seeds only as one row a network."""
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
