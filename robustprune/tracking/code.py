"""The code that a network needs beside robustprune's, for whoever loads it from a store."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from robustprune import __version__

FOLDER, ENTRIES = "code", "imports.json"
"""Where it is in a model's artifacts, and the file in there that lists what is to be imported."""

_LOADING = ("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "timm", "torch", "zstandard")
"""Distributions that robustprune needs to load a network and to run it."""


def copy_code(names: Sequence[str], run: Path, model: Path) -> list[str]:
    """Put what a recipe imports into a model's folder, to be imported from there by its loader.

    Files come from the run's copies. Modules are copied, too, unless a distribution installs them.

    Args:
        names: the recipe's ``imports``.
        run: the run folder.
        model: the folder of the model's artifacts.

    Returns:
        The distributions that the code needs, ``name==version``.
    """
    if not names:
        return []
    folder = model / FOLDER
    folder.mkdir()
    entries = [Path(name).name if name.endswith(".py") else name for name in names]
    for file in (run / "imports" / entry for entry in entries if entry.endswith(".py")):
        if file.exists():
            _copy(file, folder)
    (folder / ENTRIES).write_text(json.dumps(entries), encoding="utf-8")
    used = {entry.partition(".")[0] for entry in entries if not entry.endswith(".py")}
    seen: set[str] = set()
    while new := (used | _imported(folder)) - seen:  # and what is copied imports more
        for source in (source for top in new if (source := _source(top)) is not None):
            _copy(source, folder)
        seen |= new
    return _pinned(name for top in seen for name in _distributions().get(top, [])[:1])


def requirements(more: Iterable[str] = ()) -> str:
    """The content of a ``requirements.txt``: what an index has, and a word on what none has.

    Args:
        more: lines for the code that comes with the model.
    """
    lines = sorted({*_pinned(_LOADING), *more})
    own = (
        f"# and robustprune {__version__}, which no package index has: install it from source,\n"
        "# and load or serve the model in that environment (--env-manager local)"
    )
    return "\n".join([*lines, own, ""])


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Which distributions install a top-level module; asking takes a second."""
    return packages_distributions()


def _source(top: str) -> Path | None:
    """The file or folder of a module that no distribution has installed."""
    if top in _distributions() or top in sys.stdlib_module_names:
        return None
    with suppress(ImportError, ValueError):  # of what cannot be found, or has no place
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            return origin.parent if spec.submodule_search_locations else origin
    return None


def _copy(source: Path, folder: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(source, folder / source.name, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, folder)


def _imported(folder: Path) -> set[str]:
    """Top-level modules that the files in a folder import, anywhere in them."""
    found = set()
    for file in folder.rglob("*.py"):
        with suppress(SyntaxError, ValueError):  # of a file that is for another Python
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - {"robustprune"}


def _pinned(names: Iterable[str]) -> list[str]:
    """``name==version`` of those that are installed; an index has no builds such as ``+cpu``."""
    lines = []
    for name in names:
        try:
            lines.append(f"{name.lower()}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return lines
