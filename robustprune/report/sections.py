"""What a page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from robustprune.report.figures import Figure


@dataclass(frozen=True)
class Table:
    """Rows of text below a caption; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """Stands below it."""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: its heading.
        text: a paragraph each.
        missing: what could not be shown and why, a sentence each.
        tables: stand above the figures.
        figures: side by side.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
