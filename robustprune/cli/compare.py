"""Print the final metrics of runs side by side, as a table for a paper, or as differences.

Networks of one name stand below each other; then follows every option in which recipes differ.

  robustprune compare runs/quickstart/<id> runs/quickstart/<other id>
  robustprune compare seed-0.json seed-1.json                         results.json files alone
  robustprune compare mlflow:quickstart runs/quickstart/<id>
  robustprune compare runs/quickstart/* --out table.tex               mean ± std, the best in bold
  robustprune compare runs/quickstart/* --metrics clean,pgd-20 --format csv
  robustprune compare runs/quickstart/* --paired magnitude            differences, and their p
  robustprune compare runs/quickstart/* --figures figures             PDF and SVG

Runs whose recipes differ only in their seed are one row: the mean, and how many there are. CSV and
JSON have a record for each number: recipe, method, density, network, metric, mean, std, low and
high (of the 95 % interval), runs, images, values (one a run); accuracies in [0, 1].

With --paired, networks of one density and seed are compared with the baseline's: over seeds by the
paired t-test, over images by McNemar's exact test, which runs with their images.parquet allow; p is
given as it is, and adjusted for the number of rows by Holm's procedure.
"""

from __future__ import annotations

import io
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli import typed
from robustprune.cli.arguments import add_runs, check_writable, option, run_folders, writing
from robustprune.paths import told

if TYPE_CHECKING:  # rich, torch and matplotlib come with them
    from robustprune.report.estimates import Spread
    from robustprune.report.groups import Group
    from robustprune.tracking import Console

_FORMATS = ("text", "latex", "markdown", "csv", "json")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_runs(parser)
    text = f"{', '.join(_FORMATS)} (default: as --out ends in .tex, .md, .csv or .json; or text)"
    option(parser, "--format NAME", text, choices=_FORMATS)
    option(parser, "--out FILE", "write the table to a file")
    text = "beside a mean: std, interval (95 %%) or none (default: interval in text, otherwise std)"
    option(parser, "--spread NAME", text, choices=("std", "interval", "none"))
    text = "only these, with commas; of others than accuracies, e.g. size/bytes_packed or turnover"
    option(parser, "--metrics NAMES", text, type=typed.names, default=[])
    text = "the differences of every other method to this one: a pruner's label, dense or a recipe"
    option(parser, "--paired BASELINE", text)
    option(parser, "--figures DIR", "draw accuracy against density, cost and radius into a folder")


def command(arguments: Namespace) -> None:
    """Print or write the runs' final metrics, or the differences to a baseline."""
    from robustprune.files import write_text
    from robustprune.report.paper import FORMATS
    from robustprune.tracking import Console

    out: Path | None = arguments.out
    if out is not None:
        check_writable(out)
    form = arguments.format or FORMATS.get(out.suffix if out else "", "text")
    written = None if out is None else io.StringIO()
    console = Console(file=written)
    with run_folders(arguments) as folders:
        groups = _grouped(folders)
        if form == "text":
            _print(groups, console, arguments)
        else:
            console.info(_table(groups, form, arguments))
        _tell_shortcomings(groups, console)
        done = []
        if out is not None and written is not None:
            with writing(out):
                write_text(out, written.getvalue())
            done.append(f"written to {out}")
        if arguments.figures is not None:
            _draw(groups, arguments.figures)
            done.append(f"figures written to {arguments.figures}")
        if out is not None or form == "text":  # otherwise what is printed is a file's content
            for line in done:
                Console().info(line)


def compare(folders: Iterable[Path], console: Console) -> None:
    """Print runs side by side: of runs that differ only in their seeds, one row per network."""
    groups = _grouped(folders)
    _print(groups, console, Namespace(metrics=[], spread=None, paired=None))
    _tell_shortcomings(groups, console)


def _grouped(folders: Iterable[Path]) -> list[Group]:
    from robustprune.report.groups import grouped
    from robustprune.report.runs import read_run

    unique = {path.resolve(): path for path in folders}.values()
    return grouped([read_run(path) for path in unique])


def _print(groups: Sequence[Group], console: Console, asked: Namespace) -> None:
    """Print all tables for people."""
    from robustprune.report.paired import paired, paired_sheet
    from robustprune.report.tables import comparison, differences_table, intervals, runs_table

    spread: Spread = asked.spread or "interval"
    pairs = paired(groups, asked.paired, asked.metrics) if asked.paired else []
    tables = [runs_table(groups), comparison(groups, asked.metrics, spread)]
    tables.append(differences_table(groups))
    for table in tables:
        if table.rows:
            console.table(table.caption, table.columns, table.rows)
            console.info("")
    if words := intervals(groups):
        beside = {"std": " ± their standard deviation over the seeds", "none": ""}
        console.info(
            "accuracies in percent" + beside.get(spread, f" with their 95 % interval: {words}")
        )
    if len(groups) > 1 and not tables[-1].rows:
        console.info("the recipes do not differ")
    if pairs:
        sheet = paired_sheet(pairs)
        console.info("")
        console.table(f"differences to {asked.paired}", sheet.columns, sheet.lines())
        for note in sheet.notes:
            console.info(note)


def _table(groups: Sequence[Group], form: str, asked: Namespace) -> str:
    """Return one table in a format for papers or programs."""
    from robustprune.report import paper
    from robustprune.report.paired import paired, paired_records, paired_sheet

    pairs = paired(groups, asked.paired, asked.metrics) if asked.paired else []
    if form in ("csv", "json"):
        found = paired_records(pairs) if pairs else paper.results_records(groups, asked.metrics)
        return paper.as_csv(found) if form == "csv" else paper.as_json(found)
    sheet = (
        paired_sheet(pairs)
        if pairs
        else paper.results_sheet(groups, asked.metrics, asked.spread or "std")
    )
    return paper.as_latex(sheet) if form == "latex" else paper.as_markdown(sheet)


def _draw(groups: Sequence[Group], folder: Path) -> None:
    """Draw what the runs' results alone tell."""
    from robustprune.report import accuracy, cost
    from robustprune.report.figures import write_figures

    sections = (accuracy.section, cost.section, accuracy.security, accuracy.certified)
    with told(f"cannot write figures to {folder}", "Name another folder."):
        write_figures((f for draw in sections for f in draw(groups).figures), folder)


def _tell_shortcomings(groups: Sequence[Group], console: Console) -> None:
    for group in groups:
        for run in group.runs:
            for shortcoming in run.shortcomings:
                say = console.error if run.unsound else console.warn
                say(f"{group.label}, seed {run.results.seed}: {shortcoming}.")
