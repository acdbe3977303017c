"""``extends:``, by which a recipe says only how it differs from another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.paths import usable
from robustprune.recipe.document import Document
from robustprune.sentences import shown

KEY = "extends"
_DEEPEST = 10
_MOST_FILES = 100


def read_extended(path: Path) -> Document:
    """Read a recipe and what it extends, and so on, as one document without ``extends:``.

    ``extends`` names a file relative to the one it stands in, or a list of them, of which later
    ones win. Mappings are merged deeply, lists and scalars replaced (`document.merged`). Files in
    ``imports:`` are relative to the file that names them; all other paths start where they would
    in any recipe.

    Raises:
        UsageError: a file cannot be read or is no recipe, files extend each other in a circle, or
            there are too many.
    """
    return _Reader().read(usable(path), ())


class _Reader:
    """Counts files, so that ones that extend each other twice over come to an end."""

    def __init__(self) -> None:
        self._files = 0

    def read(self, path: Path, above: tuple[Path, ...]) -> Document:
        """A file with all that it extends; ``above`` are those that extend it, resolved."""
        document = Document.read(path)
        chain = (*above, path.resolve())
        for index, name in _names(document):
            try:
                base = self._base(path.parent, name, chain)
            except InvalidError:
                raise
            except UsageError as error:
                raise InvalidError(document.located([Problem((KEY, *index), f"{error}")])) from None
            document.extend(base)
        document.values.pop(KEY, None)
        return document

    def _base(self, folder: Path, name: Any, chain: tuple[Path, ...]) -> Document:
        if not isinstance(name, str):
            raise UsageError(f"expected a recipe's file, or a list of them; got {shown(name)}.")
        path = usable(folder / usable(name))
        self._files += 1
        if path.resolve() in chain:
            raise UsageError(f"'{name}' extends this file in turn. Take one of the two out.")
        if len(chain) > _DEEPEST:
            raise UsageError(f"files extend each other more than {_DEEPEST} deep. Merge some.")
        if self._files > _MOST_FILES:
            raise UsageError(f"more than {_MOST_FILES} files are extended in all. Merge some.")
        document = self.read(path, chain)
        document.values = _moved(document.values, path.parent, folder)
        return document


def _names(document: Document) -> Iterator[tuple[tuple[int, ...], Any]]:
    """What the document extends, the last first, each with its position in the list."""
    if KEY not in document.values:
        return
    names = document.values[KEY]
    if isinstance(names, list):
        yield from (((index,), names[index]) for index in reversed(range(len(names))))
    else:
        yield (), names


def _moved(values: dict[str, Any], folder: Path, to: Path) -> dict[str, Any]:
    """``values`` with relative files in ``imports`` named from ``to`` instead of ``folder``."""
    imports = values.get("imports")
    if not isinstance(imports, list):
        return values
    return {**values, "imports": [_from(name, folder, to) for name in imports]}


def _from(name: Any, folder: Path, to: Path) -> Any:
    if not (isinstance(name, str) and name.endswith(".py")) or Path(name).is_absolute():
        return name
    if not os.path.isfile(folder / name) and os.path.isfile(name):
        return name  # named from the working directory
    return Path(os.path.relpath(folder / name, to)).as_posix()
