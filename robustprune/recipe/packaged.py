"""Recipes that come with the package, and how they are found by their names."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from robustprune.paths import usable
from robustprune.recipe.reading import read_yaml

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """The folder that holds them: in the package where it is installed, beside it in a clone."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """The name of each, sorted; those in folders ``base`` only say what others extend."""
    files = (file.relative_to(folder()) for file in folder().rglob("*.yaml"))
    found = [file.with_suffix("") for file in files if file.parent.name != "base"]
    return [file.as_posix() for file in sorted(found, key=lambda path: (len(path.parts), path))]


def find(recipe: str | Path, *, near: Path | None = None) -> Path:
    """The file of a recipe: the one at this path, or the packaged one of this name.

    A file that is there wins, also where its ending ``.yaml`` was left out. Names of packaged ones
    may have the ending, and ``recipes/`` before them. If there is no such file, the path itself is
    returned, for whoever reads it to say so.

    Args:
        recipe: a path or a name.
        near: the folder that a relative path starts from; the working directory if absent.

    Raises:
        UsageError: it is no path that can be used.
    """
    path = usable(recipe if near is None else near / usable(recipe))
    if path.is_file() or Path(recipe).is_absolute():
        return path
    if path.name and not path.suffix and (file := path.with_name(f"{path.name}.yaml")).is_file():
        return file
    return packaged(recipe) or path


def packaged(name: str | Path) -> Path | None:
    """The file of a packaged recipe; None if none is called so."""
    stem = usable(name).as_posix().removeprefix("recipes/")
    file = folder() / f"{stem.removesuffix('.yaml')}.yaml"
    inside = file.resolve().is_relative_to(folder().resolve())
    return file if inside and file.is_file() else None


def movable(file: Path) -> str:
    """The text of a packaged recipe, to be written anywhere: it extends others by their names."""
    text = file.read_text(encoding="utf-8")
    extended = read_yaml(text).values.get("extends", [])
    bases = [extended] if isinstance(extended, str) else extended
    names = [reference(find(base, near=file.parent), file.parent) for base in bases]
    line = f"extends: {names[0] if len(names) == 1 else names}"
    return re.sub(r"^extends:.*$", line, text, count=1, flags=re.MULTILINE)


def reference(recipe: Path, to: Path) -> str:
    """What a recipe in the folder ``to`` extends another one by: of a packaged one its name."""
    if recipe.resolve().is_relative_to(folder().resolve()):
        return recipe.resolve().relative_to(folder().resolve()).with_suffix("").as_posix()
    return Path(os.path.relpath(recipe.resolve(), to.resolve())).as_posix()


def near(name: str, *others: str) -> str:
    """The sentences that say what ``name`` may have meant: a packaged recipe, or one of others."""
    stems = {Path(choice).stem: choice for choice in (*names(), *others)}
    found = difflib.get_close_matches(Path(name).stem, stems, 3, 0.6)
    hint = f" Did you mean {' or '.join(repr(stems[stem]) for stem in found)}?" if found else ""
    return f"{hint} `robustprune recipes` lists those that come with it, e.g. quickstart."
