"""What stands in the documents: their code blocks, and the example files among them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from robustprune.recipe.imports import run_imports

ROOT = Path(__file__).parents[2]
PAGES = tuple(sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *PAGES)
BLOCK = re.compile(r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    file: str
    language: str
    text: str


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[Block]:
    found = [Block(*match) for match in BLOCK.findall(text(document))]
    return [block for block in found if block.language == language]


def recipes(document: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block.text) for block in blocks(document, "yaml")]


def plain_python(document: str) -> list[str]:
    """Its Python that is not a file for recipes to import."""
    return [block.text for block in blocks(document, "python") if not block.file]


def snippets(document: str) -> list[dict[str, Any]]:
    """Its YAML blocks that are parts of a recipe only."""
    return [recipe for recipe in recipes(document) if "name" not in recipe]


def module(path: Path) -> dict[str, Any]:
    """What an example file defines, imported as a recipe imports it."""
    assert run_imports([path.name], path.parent) == []
    return next(vars(m) for m in list(sys.modules.values()) if file_of(m) == path)


def file_of(loaded: object) -> Path | None:
    name = getattr(loaded, "__file__", None)
    return Path(name) if isinstance(name, str) else None
