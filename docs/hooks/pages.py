"""Common ground of the hooks: generated pages, tables in Markdown, and the folders they read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_CODE_OR_LESS = re.compile(r"((`+)(?!`).+?(?<!`)\2(?!`))|<", re.DOTALL)


def add(files: Files, config: MkDocsConfig, path: str, text: str) -> None:
    """Put a generated page into the site at ``path``, relative to ``docs/``."""
    files.append(File.generated(config, path, content=text))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A Markdown table whose last ``numbers`` columns are aligned to the right."""
    words = len(columns) - numbers
    lines = [columns, ["---"] * words + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text: str) -> str:
    """A docstring as Markdown: a ``<`` outside of code is a character, and begins no tag."""
    return _CODE_OR_LESS.sub(lambda found: found[1] or "&lt;", text)


def cell(text: str) -> str:
    """`prose` on one line, without what would end a cell."""
    return prose(" ".join(text.split())).replace("|", "\\|")


def code(text: str) -> str:
    """``text`` as code in a cell, or nothing where it is empty."""
    return cell(f"`{text}`") if text else ""
