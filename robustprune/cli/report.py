"""Write one HTML page about runs, which needs no other file and no network.

It shows accuracy against density, against bytes and multiply-adds, against the attack's radius and
against the certified one, what masks keep by magnitude and by layer, training curves, and attacked
images. Its figures lie as SVG and PDF, one column of a paper wide, in a folder beside it.

  robustprune report runs/quickstart/<id>                     to report/report.html in that folder
  robustprune report runs/quickstart/* --out seeds.html     means over seeds
  robustprune report mlflow:quickstart --uri http://localhost:5000

Runs whose recipes differ only in seed and name are one: means with intervals over seeds. What a run
left no files for is said on the page. Nothing is downloaded: images are shown where the dataset's
files are found.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from robustprune.cli.arguments import add_runs, option, run_folders


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_runs(parser)
    text = "the page, ….html (default: report/report.html in the one run folder, or report.html)"
    option(parser, "--out FILE", text)


def command(arguments: Namespace) -> None:
    """Write a page about some runs."""
    from robustprune.report import write_report
    from robustprune.tracking import Console

    first = Path(arguments.runs[0])
    alone = len(arguments.runs) == 1 and first.is_dir()
    out = arguments.out or Path(first / "report" if alone else "", "report.html")
    console = Console()
    with run_folders(arguments) as folders:
        console.info(f"written to {write_report(folders, out, console=console)}")
