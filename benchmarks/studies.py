"""Record the runs of a study: their results, one table, and one report.

    export ROBUSTPRUNE_DATA=…
    robustprune run recipes/studies/hidden_trades.yaml recipes/studies/hidden_pgd.yaml
    python benchmarks/studies.py hidden runs/study-hidden-trades/<id> runs/study-hidden-pgd/<id>

Each results.json is copied to benchmarks/results/studies/<study>/<recipe>-seed-<n>.json; README.md,
the table, and accuracy.png are written beside them. The full report is drawn from these files:

    robustprune report benchmarks/results/studies/hidden/*.json --out report.html

but for what it shows of masks, curves and images, because model files are not kept. The picture
alone is drawn anew from the files by

    python benchmarks/studies.py hidden --picture
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from ratio import table

from robustprune.report import accuracy
from robustprune.report.groups import Group, grouped
from robustprune.report.runs import read_run
from robustprune.report.tables import comparison, metrics_table

RESULTS = Path(__file__).parent / "results" / "studies"
WIDTH = 440
"""Size of a panel, in pixels."""


def main() -> None:
    arguments = _arguments()
    folder = RESULTS / arguments.study
    if arguments.picture:
        files = sorted(folder.glob("*.json"))
        picture(grouped([read_run(file) for file in files]), folder / "accuracy.png")
        return
    folder.mkdir(parents=True, exist_ok=True)
    groups = grouped([read_run(path) for path in arguments.runs])
    for path, run in ((run.path, run) for group in groups for run in group.runs):
        name = f"{run.results.recipe}-seed-{run.results.seed}.json"
        shutil.copyfile(path / "results.json", folder / name)
    picture(groups, folder / "accuracy.png")
    text = report(arguments, groups)
    (folder / "README.md").write_text(text)
    print(text)


def picture(groups: Sequence[Group], file: Path) -> None:
    """The report's panels of robust accuracy against density, side by side and small."""
    panels = [
        figure for figure in accuracy.section(groups).figures if not figure.name.endswith("clean")
    ]
    for panel in panels:
        panel.canvas.set_layout_engine("constrained")  # room for what a page says beside it
        title = textwrap.fill(panel.title, 46)
        panel.canvas.axes[0].set_title(title, loc="left", fontsize=8, fontweight="bold")
    images = [Image.open(BytesIO(panel.save("png"))).convert("RGB") for panel in panels]
    images = [image.resize((WIDTH, WIDTH * image.height // image.width)) for image in images]
    columns = min(len(images), 3)
    rows = -(-len(images) // columns)
    height = max(image.height for image in images)
    sheet = Image.new("RGB", (WIDTH * columns, height * rows), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (WIDTH * (number % columns), height * (number // columns)))
    sheet.quantize(64).save(file, optimize=True)


def report(arguments: argparse.Namespace, groups: Sequence[Group]) -> str:
    """The Markdown page."""
    environment = groups[0].runs[0].results.environment
    versions = ", ".join(f"{key} {value}" for key, value in environment.items())
    commands = "\n".join(f"- `robustprune run {words}`" for words in arguments.command)
    about = (
        f"Accuracies in percent, with their 95 % interval. {versions}. The report: "
        f"`robustprune report benchmarks/results/studies/{arguments.study}/*.json`.\n\n"
        "![Accuracy against density](accuracy.png)"
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
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    parser.add_argument("--picture", action="store_true", help="draw accuracy.png from the files")
    parser.add_argument("--title", default="")
    parser.add_argument("--about", default="", help="what was found, in a few sentences")
    parser.add_argument("--command", nargs="+", default=[], help="what was typed after `run`")
    parser.add_argument("--side-by-side", action="store_true", help="one table for all recipes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
