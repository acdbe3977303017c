"""The page: sections, a template that escapes, and one file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from robustprune.errors import UsageError
from robustprune.files import write_text
from robustprune.report import accuracy, cost, curves, images, masks
from robustprune.report.figures import Section, write_figures
from robustprune.report.groups import Group, grouped
from robustprune.report.runs import read_run
from robustprune.report.tables import differences_table, measures_table, metrics_table, runs_table
from robustprune.tracking import Console


def write_page(folders: Sequence[Path], out: Path, *, ended: bool, console: Console) -> Path:
    """Write the page; see `robustprune.report.write_report`."""
    if not folders:
        raise UsageError("a report needs at least one run folder.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write a report to {out}: name a file that ends in .html.")
    if out.is_dir():
        raise UsageError(f"cannot write a report to {out}: it is a folder.")
    unique = {path.resolve(): path for path in folders}.values()
    groups = grouped([replace(read_run(path), ended=ended) for path in unique])
    sections: list[Section] = []
    with console.progress("report", len(_SECTIONS), unit="section", brief=True) as bar:
        for draw in _SECTIONS:
            drawn = draw(groups)
            sections += drawn if isinstance(drawn, list) else [drawn]
            bar.advance()
    try:
        folder = out.with_name(f"{out.stem}-figures")
        write_text(out, _html(groups, sections, folder.name))
        write_figures((f for section in sections for f in section.figures), folder)
    except OSError as error:
        raise UsageError(
            f"cannot write {out}: {error.strerror}. Name another file with --out."
        ) from None
    return out


def _results(groups: Sequence[Group]) -> Section:
    found = Section("results", "Final metrics")
    found.text.append(
        "Accuracies in percent, with their 95 % interval in brackets. Turnover is the share of "
        "the kept weights that the initial scores did not keep: what the prune stage learned."
    )
    for group in groups:
        if len(group.few) < len(group.densities):
            shown = ", ".join(f"{density:g}" for density in group.few)
            found.text.append(
                f"{group.label} has {len(group.densities)} densities; where each has a panel or a "
                f"line style of its own, only {shown} are shown."
            )
        if group.paper is not None:
            cited = "" if group.paper.metrics else "; paper: not transcribed"
            found.text.append(f"{group.label} follows {group.paper.source}{cited}.")
        tables = (metrics_table(group), measures_table(group))
        found.tables.extend(table for table in tables if table.rows)
    if len(groups) > 1:
        found.tables.append(differences_table(groups))
    return found


def _html(groups: Sequence[Group], sections: Sequence[Section], folder: str) -> str:
    environment = Environment(
        loader=PackageLoader("robustprune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [(group.label, run) for group in groups for run in group.runs]
    return environment.get_template("page.html.j2").render(
        title="robustprune: " + ", ".join(group.label for group in groups),
        warnings=[  # what must be known before anything on the page is believed; alarms first
            f"{label}, seed {run.results.seed}: {shortcoming}."
            for label, run in sorted(runs, key=lambda pair: not pair[1].unsound)
            for shortcoming in run.shortcomings
        ],
        runs=runs_table(groups),
        sections=sections,
        folder=folder,
        base64=lambda svg: base64.b64encode(svg).decode(),  # as an image, an SVG can run nothing
    )


_SECTIONS: tuple[Callable[[Sequence[Group]], Section | list[Section]], ...] = (
    *(_results, accuracy.section, cost.section, accuracy.security, accuracy.certified),
    *(masks.sections, curves.section, images.section),
)
