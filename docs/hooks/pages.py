"""What the hooks share: generated pages, tables in Markdown, and the folders they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def add(files: Files, config: MkDocsConfig, path: str, text: str) -> None:
    """Put a generated page into the site at ``path``, relative to ``docs/``."""
    files.append(File.generated(config, path, content=text))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A Markdown table whose last ``numbers`` columns are aligned to the right."""
    words = len(columns) - numbers
    lines = [columns, ["---"] * words + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """``text`` on one line, without what would end a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """``text`` as code in a cell, or nothing where it is empty."""
    return f"`{cell(text)}`" if text else ""
