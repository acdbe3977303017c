"""Pages that stand elsewhere in the repository: recorded results, recipes, and documents.

They are copied as they are, so that nothing is said in two places.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pages import ROOT, add

RESULTS = ROOT / "benchmarks" / "results"
RECIPES = ROOT / "recipes"
_DOCUMENTS = {
    "CONTRIBUTING.md": "contributing.md",
    "robustprune/artifacts/PACKED.md": "reference/packed.md",
}
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in _DOCUMENTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](benchmarks/results/", "](results/")
        add(files, config, page, text)
    tables = sorted(RESULTS.rglob("*.md"))
    for path in tables:
        more = _contents(tables) if path == RESULTS / "README.md" else ""
        add(files, config, recorded_page(path), _recorded(path) + more)
    for picture in sorted(RESULTS.rglob("*.png")):
        files.append(File.generated(config, recorded_page(picture), abs_src_path=str(picture)))
    add(files, config, "reference/recipes.md", recipes_page())
    return files


def recorded_page(path: Path) -> str:
    """Where a recorded file stands in the site, relative to ``docs/``."""
    return f"results/{path.relative_to(RESULTS).as_posix()}"


def recipes_page() -> str:
    """Every recipe that comes with the package, as it stands."""
    about = (
        "The recipes that come with the package as they stand, each with how its settings were "
        "chosen. Commands find them by these names. Change one on the command line with `--set`, "
        "or write it to a file to edit: `robustprune recipes copy NAME`."
    )
    files = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    sections = (
        f"## {path.relative_to(RECIPES).with_suffix('').as_posix()}\n\n"
        f'```yaml title="recipes/{path.relative_to(RECIPES).as_posix()}"\n'
        f"{path.read_text(encoding='utf-8')}```\n"
        for path in files
    )
    return "\n".join(["# Recipes that come with it\n", about + "\n", *sections])


def _contents(tables: list[Path]) -> str:
    """Links to all recorded pages, for the one that they stand below."""
    names = [path.relative_to(RESULTS).as_posix() for path in tables if path.parent != RESULTS]
    links = [f"- [{name.removesuffix('/README.md').removesuffix('.md')}]({name})" for name in names]
    return "\n".join(["", "## Tables", "", *links, ""])


def _recorded(path: Path) -> str:
    """The file, with links to what is not in the site (scripts) left as their text."""

    def kept(match: re.Match[str]) -> str:
        inside = (path.parent / match[2]).resolve().is_relative_to(RESULTS)
        return match[0] if inside else f"`benchmarks/{Path(match[2]).name}`"

    return _LINK.sub(kept, path.read_text(encoding="utf-8"))
