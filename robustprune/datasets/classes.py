"""The names of classes: of folders, and in files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robustprune.errors import UsageError
from robustprune.paths import told, usable

_MOST_BYTES = 2**22


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in ``folder``, but for hidden ones (``.ipynb_checkpoints``).

    Raises:
        UsageError: there are none, or one has a name that is no text.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise UsageError(f"{folder}: there are no class folders in it, one of images a class.")
    for name in names:
        usable(folder / name)
    return names


def read_names(file: Path) -> tuple[str, ...]:
    """The names in a text file, one a line.

    Raises:
        UsageError: it cannot be read, is no text, or names a class twice.
    """
    what = f"cannot read the names of classes in {file}"
    with told(what, "Name another file."), file.open("rb") as stream:
        content = stream.read(_MOST_BYTES + 1)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{file}: no names of classes, one a line: it is not UTF-8.") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{file}: no names of classes, one a line: it is larger than 4 MiB.")
    names = tuple(line.strip() for line in lines if line.strip())
    try:
        check_names(names)
    except UsageError as error:
        raise UsageError(f"{file}: {error}.") from None
    return names


def check_names(names: Sequence[str]) -> None:
    """Make sure that names tell classes apart.

    Raises:
        UsageError: there are fewer than two, or two are the same.
    """
    if len(names) < 2:
        raise UsageError(f"expected the names of at least 2 classes; got {len(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two classes are called '{twice}'; give each a name of its own")
