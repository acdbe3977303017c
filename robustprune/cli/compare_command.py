"""``robustprune compare``."""

from __future__ import annotations

from argparse import Namespace

from robustprune.cli.runs import run_folders
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print the runs' final metrics, and what their recipes differ in."""
    from robustprune.report.groups import grouped
    from robustprune.report.runs import read_run
    from robustprune.report.tables import comparison, differences_table, runs_table

    console = Console()
    with run_folders(arguments) as folders:
        unique = {path.resolve(): path for path in folders}.values()
        groups = grouped([read_run(path) for path in unique])
    tables = [runs_table(groups), comparison(groups), differences_table(groups)]
    for table in tables:
        if table.rows:
            console.table(table.caption, table.columns, table.rows)
            console.info("")
    console.info("accuracies with their 95 % interval: over seeds, or over the images of one run")
    if len(groups) > 1 and not tables[-1].rows:
        console.info("the recipes do not differ")
    for group in groups:
        for run in group.runs:
            for shortcoming in run.shortcomings:
                say = console.error if run.unsound else console.warn
                say(f"{group.label}, seed {run.results.seed}: {shortcoming}.")
