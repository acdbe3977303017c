"""Places where the files of a dataset are looked for, and checks of what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.errors import UsageError
from robustprune.paths import told, usable
from robustprune.types import Images

VARIABLE = "ROBUSTPRUNE_DATA"
"""The environment variable that names the folder of all datasets."""

FREE = 2**28
"""Bytes that any file may unpack to."""
MOST_TIMES = 100
"""Times its own size that a larger file may unpack to; photographs take 1 to 10."""
_MOST_NAMES = 2**22  # bytes of a file of classes' names


def places(path: Path, *others: str) -> list[Path]:
    """Return every path that ``path`` may mean, in the order in which they are tried.

    A relative one is looked for from the working directory, then from $ROBUSTPRUNE_DATA, where
    ``others`` are tried, too. A `UsageError` says that the variable holds what cannot be a path.
    """
    path = Path(os.path.expanduser(path))  # unlike pathlib's, it never raises
    if path.is_absolute() or not os.environ.get(VARIABLE):
        return [path.absolute()]
    try:
        base = usable(os.path.expanduser(os.environ[VARIABLE])).absolute()
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {error}") from None
    found = [path.absolute(), base / path, *(base / other for other in others)]
    return list(dict.fromkeys(found))


def missing(what: str, looked_for: str, where: Sequence[Path], remedy: str) -> UsageError:
    """Return the error that says what was looked for, in which places, and how to get it."""
    listed = "".join(f"\n  {place}" for place in where)
    hint = "" if os.environ.get(VARIABLE) else f"\n{VARIABLE} is not set."
    return UsageError(f"{what} not found. Looked for {looked_for} in{listed}\n{remedy}{hint}")


def check_unpacked(size: int, file: Path, what: str) -> None:
    """Raise a `UsageError` if ``what`` in a small file takes many bytes (``size``) unpacked."""
    held = file.stat().st_size
    if size > max(FREE, MOST_TIMES * held):
        raise UsageError(
            f"{file}: {what} would take {size:,} bytes, and the file has {held:,}: more than "
            f"{MOST_TIMES} times as much. Images do not compress like that; fetch it again."
        )


def checked(
    data: Any, labels: Any, *, channels: int, size: int, num_classes: int, where: str
) -> Images:
    """Return uint8 images ``(n, c, h, w)``, contiguous, and int64 labels, once they are checked.

    Args:
        data: uint8, ``(n, c, h, w)``, ``(n, h, w, c)``, or ``(n, h, w)`` if grey.
        labels: ``(n,)`` whole numbers, which must be below ``num_classes``.
        channels: the number of channels there must be.
        size: the height and width there must be.
        num_classes: see ``labels``.
        where: the file, for the message.

    Raises:
        UsageError: a wrong shape, type, count or label.
    """
    pixels, classes = np.asarray(data), np.asarray(labels)
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[:, None]
    if pixels.shape[1:] == (size, size, channels) and channels != size:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (channels, size, size):
        remedy = " If they are in [0, 1], write (255 * images).round() as uint8."
        raise UsageError(
            f"{where}: expected uint8 images of {channels}×{size}×{size} (channels, height, "
            f"width), found {pixels.dtype} of shape {pixels.shape}."
            + (remedy if pixels.dtype.kind == "f" else "")
        )
    count = len(pixels)
    if not count:
        raise UsageError(f"{where}: it holds no images.")
    if pixels.max() == 1:
        raise UsageError(
            f"{where}: no pixel is above 1: images of 0 … 255 were expected. Multiply them by 255."
        )
    if classes.shape != (count,) or classes.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: expected {count} whole-numbered labels, one per image, found "
            f"{classes.dtype} of shape {classes.shape}."
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise UsageError(
            f"{where}: labels must be in 0 … {num_classes - 1}, found {low} … {high}. "
            "Is this another dataset?"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(tensor, torch.from_numpy(classes.astype(np.int64)))


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in ``folder``, without hidden ones.

    Raises:
        UsageError: there are none, or one has a name that is no text.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise UsageError(f"{folder}: no class folders in it: one folder of images per class.")
    for name in names:
        usable(folder / name)
    return names


def read_names(file: Path) -> tuple[str, ...]:
    """Return the names of classes in a text file, one per line.

    Raises:
        UsageError: it cannot be read, is no text, or names a class twice.
    """
    what = f"cannot read the names of classes in {file}"
    with told(what, "Name another file."), file.open("rb") as stream:
        content = stream.read(_MOST_NAMES + 1)
    try:
        if len(content) > _MOST_NAMES:
            raise ValueError("it is larger than 4 MiB")
        lines = content.decode("utf-8").splitlines()
        return check_names([line.strip() for line in lines if line.strip()])
    except ValueError as error:  # UnicodeDecodeError and UsageError are, too
        raise UsageError(f"{file}: expected names of classes, one per line: {error}.") from None


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, or raise a `UsageError` if they are not two different ones."""
    if len(names) < 2:
        raise UsageError(f"expected the names of at least 2 classes; got {len(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two classes are called '{twice}'; give each a name of its own")
    return tuple(names)
