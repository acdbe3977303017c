"""``robustprune report``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from robustprune.cli.runs import run_folders
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Write a page about some runs."""
    from robustprune.report import write_report

    console = Console()
    with run_folders(arguments) as folders:
        out = write_report(folders, _out(arguments), console=console)
    console.info(f"written to {out}")


def _out(arguments: Namespace) -> Path:
    """In the run's folder if there is one folder, else in the working directory."""
    if arguments.out is not None:
        return Path(arguments.out)
    (first, *others) = arguments.runs
    inside = not others and Path(first).is_dir()
    return Path(first) / "report" / "report.html" if inside else Path("report.html")
