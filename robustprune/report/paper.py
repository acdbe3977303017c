"""Tables for a paper and for programs: LaTeX, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from robustprune.report.estimates import Estimate, Spread
from robustprune.report.groups import Group
from robustprune.report.tables import NONE, chosen, headed
from robustprune.tracking.layout import UNDECIDED

FORMATS = {".tex": "latex", ".csv": "csv", ".md": "markdown", ".json": "json"}
"""Formats by the usual ending of their files."""

_NEITHER = ("turnover", *UNDECIDED)  # fractions of which more is not better
_COST = re.compile(r"/(bytes|macs|milliseconds)_?\w*$")  # of other numbers who knows
_SPREADS = {"std": "± standard deviation over seeds", "interval": "with 95 % interval"}


class Cell(NamedTuple):
    """What stands in a table: a text, what is to stand beside it, and whether it is the best."""

    text: str
    beside: str = ""
    best: bool = False


class Sheet(NamedTuple):
    """A table whose rows stand in blocks; the first cell of a block's first row names it."""

    columns: Sequence[str]
    blocks: Sequence[Sequence[Sequence[Cell]]]
    words: int
    """The number of columns of words, which come first; numbers are aligned to the right."""
    notes: Sequence[str]

    def lines(self) -> list[list[str]]:
        """Return the rows as texts."""
        rows = [row for block in self.blocks for row in block]
        return [[f"{cell.text} {cell.beside}".strip() for cell in row] for row in rows]


class Row(NamedTuple):
    """A network of a recipe, over its seeds."""

    group: Group
    network: str
    method: str


def blocks(groups: Sequence[Group]) -> dict[float, list[Row]]:
    """Return the networks by density, the largest first; recipes stand below each other."""
    found: dict[float, list[Row]] = {}
    for group in groups:
        for network in group.networks:
            row = Row(group, network.name, network.variant)
            found.setdefault(network.density, []).append(row)
    return dict(sorted(found.items(), reverse=True))


def results_sheet(groups: Sequence[Group], metrics: Sequence[str], spread: Spread) -> Sheet:
    """Return means of metrics, the best of each density marked; ties, as shown, all are."""
    wanted = chosen(groups, metrics)
    columns = ["density", "method", *(["recipe"] if len(groups) > 1 else [])]
    found = []
    for density, rows in blocks(groups).items():
        numbers = []
        for metric, fraction in wanted.items():
            estimates = [row.group.estimate(row.network, metric) for row in rows]
            numbers.append(_marked(estimates, metric, fraction=fraction, spread=spread))
        names = (
            [f"{density:g}", row.method + row.group.dead(row.network), row.group.label]
            for row in rows
        )
        values_of = zip(*numbers, strict=True) if numbers else [()] * len(rows)
        cells = zip(names, values_of, strict=True)
        found.append([[*map(Cell, name[: len(columns)]), *values] for name, values in cells])
    notes = ["accuracies in percent, " + " ".join(["mean", _SPREADS.get(spread, "over seeds")])]
    notes += [group.title for group in groups]
    heads = [*columns, *map(headed, wanted, wanted.values())]
    return Sheet(heads, found, len(columns), notes)


def _marked(
    estimates: Sequence[Estimate | None], metric: str, *, fraction: bool, spread: Spread
) -> list[Cell]:
    """Return the cells of one metric at one density."""
    known = [e.value for e in estimates if e is not None]
    accurate = (fraction and not metric.endswith(_NEITHER)) or metric.endswith("_acr")
    better = max if accurate else min if _COST.search(metric) else None
    best = ""
    if better is not None and len(known) > 1:
        at = known.index(better(known))
        best = [e for e in estimates if e is not None][at].texts(fraction=fraction)[0]
    cells = []
    for found in estimates:
        text, beside = found.texts(fraction=fraction, spread=spread) if found else (NONE, "")
        cells.append(Cell(text, beside, best=bool(found) and text == best))
    return cells


def results_records(groups: Sequence[Group], metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a record for each number of each network, at full precision, fractions as such.

    Without names of metrics, of every number that is known.
    """
    wanted = list(chosen(groups, metrics)) if metrics else None
    found = []
    for density, rows in blocks(groups).items():
        for group, network, method in rows:
            names = {"recipe": group.label, "method": method, "density": density}
            for metric in wanted or group.numbers:
                if (value := group.estimate(network, metric)) is not None:
                    deviation = statistics.stdev(value.each) if len(value.each) > 1 else None
                    ends = (value.low, value.high) if value.low < value.high else (None, None)
                    found.append(
                        {**names, "network": network, "metric": metric, "mean": value.value}
                        | {"std": deviation, "low": ends[0], "high": ends[1]}
                        | {"runs": len(value.each), "images": value.images}
                        | {"values": list(value.each)}
                    )
    return found


def as_json(records: Iterable[Mapping[str, Any]]) -> str:
    """Write records as a list of objects."""
    return json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False)


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Write records as rows below their names; lists have spaces between their entries."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    for record in records:
        lists = {k: " ".join(map(str, v)) for k, v in record.items() if isinstance(v, list)}
        writer.writerow({**record, **lists})
    return text.getvalue().rstrip("\n")


def as_latex(sheet: Sheet) -> str:
    """Write a whole ``tabular`` for the package booktabs; names are text, whatever they hold."""
    columns = "l" * sheet.words + "r" * (len(sheet.columns) - sheet.words)
    notes = ("needs \\usepackage{booktabs}", *sheet.notes)
    rows = _rows(sheet, _tex, "\\textbf{{{}}}".format)
    lines = [" & ".join(map(_tex, sheet.columns)) + " \\\\"]
    for block in rows:
        lines += ["\\midrule", *(" & ".join(row) + " \\\\" for row in block)]
    body = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", *lines, "\\bottomrule"]
    return "\n".join([*(f"% {_line(note)}" for note in notes), *body, "\\end{tabular}"])


def as_markdown(sheet: Sheet) -> str:
    """Write a table of GitHub's Markdown, and its notes below it."""
    sides = ["---"] * sheet.words + ["---:"] * (len(sheet.columns) - sheet.words)
    rows = [row for block in _rows(sheet, _md, "**{}**".format) for row in block]
    lines = [f"| {' | '.join(row)} |" for row in ([*map(_md, sheet.columns)], sides, *rows)]
    return "\n".join([*lines, "", *(f"{_md(note)}.  " for note in sheet.notes)]).rstrip()


def _rows(
    sheet: Sheet, escape: Callable[[str], str], bold: Callable[[str], str]
) -> list[list[list[str]]]:
    """Return the cells' texts; what names a block stands in its first row only."""
    found = []
    for block in sheet.blocks:
        rows = []
        for place, row in enumerate(block):
            texts = [bold(escape(c.text)) if c.best else escape(c.text) for c in row]
            both = [
                " ".join([t, escape(c.beside)]).strip() for t, c in zip(texts, row, strict=True)
            ]
            rows.append(["", *both[1:]] if place else both)
        found.append(rows)
    return found


def _line(text: str) -> str:
    """Return ``text`` on one line."""
    return " ".join(text.split())


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in _line(text))


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", _line(text))
