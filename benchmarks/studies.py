"""Record the runs of a study: their results, one table, and one report.

    export ROBUSTPRUNE_DATA=…
    robustprune run recipes/studies/hidden_trades.yaml recipes/studies/hidden_pgd.yaml
    python benchmarks/studies.py hidden runs/study-hidden-trades/<id> runs/study-hidden-pgd/<id>

Each results.json is copied to benchmarks/results/studies/<study>/<recipe>-seed-<n>.json; README.md,
the table, and report.html are written beside them. What the figures show of masks, curves and
images is only in the report, because model files are not kept.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ratio import table

from robustprune.report import write_report
from robustprune.report.groups import Group, grouped
from robustprune.report.runs import read_run
from robustprune.report.tables import comparison, metrics_table
from robustprune.tracking import Console

RESULTS = Path(__file__).parent / "results" / "studies"


def main() -> None:
    arguments = _arguments()
    folder = RESULTS / arguments.study
    folder.mkdir(parents=True, exist_ok=True)
    groups = grouped([read_run(path) for path in arguments.runs])
    for path, run in ((run.path, run) for group in groups for run in group.runs):
        name = f"{run.results.recipe}-seed-{run.results.seed}.json"
        shutil.copyfile(path / "results.json", folder / name)
    with TemporaryDirectory() as drafts:  # the page alone is kept: the figures are in it
        page = write_report(arguments.runs, Path(drafts) / "report.html", console=Console())
        shutil.copyfile(page, folder / "report.html")
    text = report(arguments, groups)
    (folder / "README.md").write_text(text)
    print(text)


def report(arguments: argparse.Namespace, groups: Sequence[Group]) -> str:
    """The Markdown page."""
    environment = groups[0].runs[0].results.environment
    versions = ", ".join(f"{key} {value}" for key, value in environment.items())
    commands = "\n".join(f"- `robustprune run {words}`" for words in arguments.command)
    about = (
        f"Accuracies in percent, with their 95 % interval. {versions}. [The report](report.html)."
    )
    tables = [comparison(groups)] if arguments.side_by_side else map(metrics_table, groups)
    parts = [f"**{t.caption}**. {t.note or ''}\n\n{table(t.columns, t.rows)}" for t in tables]
    head = [f"# {arguments.title}", *filter(None, [arguments.about]), commands, about]
    return "\n\n".join([*head, *parts]) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="the folder's name")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--title", required=True)
    parser.add_argument("--about", default="", help="what was found, in a few sentences")
    parser.add_argument("--command", nargs="+", default=[], help="what was typed after `run`")
    parser.add_argument("--side-by-side", action="store_true", help="one table for all recipes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
