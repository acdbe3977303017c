"""Source files that pages name: each is a page, and its name, as `robustprune/radii.py`, a link."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from pages import ROOT, add

_NAMED = re.compile(r"(?<!\[)`((?:robustprune|benchmarks)/[\w/]+\.py)`(?!\])")
_EXCLUDED = "---\nsearch: {exclude: true}\n---\n\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each source file that is named."""
    pages = [file for file in files if file.is_documentation_page()]
    named = {path for file in pages for path in _NAMED.findall(file.content_string)}
    for path in sorted(named):
        if (ROOT / path).is_file():
            text = (ROOT / path).read_text(encoding="utf-8")
            add(files, config, _page(path), f"{_EXCLUDED}# {path}\n\n````python\n{text}````\n")
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the names."""

    def linked(match: re.Match[str]) -> str:
        there = _page(match[1])
        if files.get_file_from_path(there) is None:
            return match[0]
        return f"[{match[0]}]({get_relative_url(there, page.file.src_uri)})"

    return _NAMED.sub(linked, markdown)


def _page(path: str) -> str:
    """Where a source file stands in the site, relative to ``docs/``."""
    return f"source/{Path(path).with_suffix('.md').as_posix()}"
