"""The page: sections, a template that escapes, and one file that needs no other."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.errors import UsageError
from robustprune.files import replacing, write_text
from robustprune.report import (
    accuracy,
    certified,
    curves,
    layers,
    pictures,
    security,
    weights,
)
from robustprune.report.figures import Figure
from robustprune.report.groups import Group, grouped
from robustprune.report.masks import Masks, read_masks
from robustprune.report.runs import read_run
from robustprune.report.sections import Section
from robustprune.report.tables import differences_table, metrics_table, runs_table
from robustprune.tracking import Console

if TYPE_CHECKING:
    from jinja2 import Template


def write_page(
    folders: Sequence[Path], out: Path, *, ended: bool = False, console: Console | None = None
) -> Path:
    """Write the page; see `robustprune.report.write_report`."""
    if not folders:
        raise UsageError("a report needs at least one run folder.")
    _check(out)
    unique = {path.resolve(): path for path in folders}.values()
    groups = grouped([replace(read_run(path), ended=ended) for path in unique])
    work = _work(groups)
    sections = []
    quiet = console or Console(quiet=True)
    with quiet.progress("report", len(work), unit="section", brief=True) as bar:
        for draw in work:
            sections.append(draw())
            bar.advance()
    _write(out, _html(groups, sections), [f for section in sections for f in section.figures])
    return out


def _work(groups: Sequence[Group]) -> list[Callable[[], Section]]:
    """The sections of the page, in order, each to be drawn."""
    masks: dict[str, Masks] = {}

    def read() -> dict[str, Masks]:
        if not masks:
            masks.update({group.label: read_masks(group) for group in groups})
        return masks

    return [
        lambda: _results(groups),
        lambda: accuracy.section(groups),
        lambda: security.section(groups),
        lambda: certified.section(groups),
        lambda: weights.section(groups, read()),
        lambda: layers.section(groups, read()),
        lambda: curves.section(groups),
        lambda: pictures.section(groups),
    ]


def _few(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        if len(group.few) < len(group.densities):
            shown = ", ".join(f"{density:g}" for density in group.few)
            yield (
                f"{group.label} has {len(group.densities)} densities; where each has a panel or a "
                f"line style of its own, only {shown} are shown."
            )


def _results(groups: Sequence[Group]) -> Section:
    found = Section("results", "Final metrics")
    found.text.append(
        "Accuracies in percent, with their 95 % interval in brackets. Turnover is the share of "
        "the kept weights that the initial scores did not keep: what the prune stage learned."
    )
    found.text.extend(_few(groups))
    found.tables.extend(metrics_table(group) for group in groups)
    for group in groups:
        if group.paper is not None:
            cited = "" if group.paper.metrics else "; paper: not transcribed"
            found.text.append(f"{group.label} follows {group.paper.source}{cited}.")
    if len(groups) > 1:
        found.tables.append(differences_table(groups))
    return found


def _html(groups: Sequence[Group], sections: Sequence[Section]) -> str:
    return _template().render(
        title="robustprune: " + ", ".join(group.label for group in groups),
        warnings=list(_warnings(groups)),
        runs=runs_table(groups),
        sections=sections,
        source=_source,
    )


def _warnings(groups: Sequence[Group]) -> Iterator[str]:
    """What must be known before anything on the page is believed; alarms first."""
    runs = [(group, run) for group in groups for run in group.runs]
    for group, run in sorted(runs, key=lambda pair: not pair[1].unsound):
        for shortcoming in run.shortcomings:
            yield f"{group.label}, seed {run.results.seed}: {shortcoming}."


def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robustprune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _source(figure: Figure) -> str:
    """A figure as an address that holds it. As an image, an SVG can run nothing."""
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"


def _check(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write a report to {out}: name a file that ends in .html.")
    if out.is_dir():
        raise UsageError(f"cannot write a report to {out}: it is a folder.")


def _write(out: Path, html: str, figures: Sequence[Figure]) -> None:
    seen: Counter[str] = Counter()
    try:
        for figure in figures:
            seen[figure.name] += 1  # labels may differ in characters that no file's name has
            number = f"-{seen[figure.name]}" if seen[figure.name] > 1 else ""
            with replacing(out.with_name(f"{out.stem}-{figure.name}{number}.png")) as temporary:
                temporary.write_bytes(figure.png)
        write_text(out, html)
    except OSError as error:
        raise UsageError(
            f"cannot write {out}: {error.strerror}. Name another file with --out."
        ) from None
