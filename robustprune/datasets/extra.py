"""Pseudo-labelled images that are added to the training batches (Carmon et al. 2019)."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from robustprune.datasets.locate import missing, places
from robustprune.datasets.unpacking import check_unpacked
from robustprune.errors import UsageError
from robustprune.parts import Options

if TYPE_CHECKING:
    from robustprune.types import Images

IMAGE_KEYS = ("images", "data", "X")
LABEL_KEYS = ("labels", "y", "extrapolated_targets")


class Extra(Options):
    """Where the images are, and how many are added to each batch."""

    path: Path
    """A file: .npz (images, labels), .parquet (the Hugging Face hub's columns), or .pickle (as
    published by Carmon et al.: data, extrapolated_targets). Looked for like a dataset's root."""
    per_batch: int = Field(128, gt=0)
    """Images added to each batch; on all processes together."""

    def load(self, *, channels: int, size: int, num_classes: int) -> Images:
        """All images of the file.

        Returns:
            uint8 images ``(n, channels, size, size)`` and int64 labels ``(n,)``.

        Raises:
            UsageError: the file is missing, damaged, refused, or does not fit the dataset.
        """
        file = self._find()
        expected = {"channels": channels, "size": size, "num_classes": num_classes}
        if file.suffix == ".parquet":
            from robustprune.datasets import hub

            return hub.read([file], **expected)
        from robustprune.datasets.tensors import checked

        return checked(*_arrays(file), **expected, where=str(file))

    def _find(self) -> Path:
        candidates = places(self.path, self.path.name)
        for place in candidates:
            if place.is_file():
                return place
        remedy = (
            "Set 'data.extra.path' to a .npz, .parquet or .pickle file, or leave out 'data.extra'. "
            "The images of Carmon et al. are published as ti_500K_pseudo_labeled.pickle."
        )
        raise missing("the extra images were", "a file", candidates, remedy)


def _arrays(file: Path) -> tuple[Any, Any]:
    if file.suffix == ".npz":
        content = _read_npz(file)
    elif file.suffix in (".pickle", ".pkl"):
        from robustprune.datasets.unpickle import read_arrays

        content = read_arrays(file)
    else:
        raise UsageError(
            f"{file}: extra images are read from .npz, .parquet, .pickle and .pkl files only."
        )
    return _pick(content, IMAGE_KEYS, file), _pick(content, LABEL_KEYS, file)


def _read_npz(file: Path) -> Mapping[str, Any]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as archive:
            wanted = [key for key in archive.files if key in (*IMAGE_KEYS, *LABEL_KEYS)]
            for key in wanted:
                _check_member(archive.zip, key, file)
            return {key: archive[key] for key in wanted}
    except UsageError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise UsageError(f"{file}: not a readable .npz file of plain arrays ({error}).") from None


def _check_member(archive: zipfile.ZipFile, key: str, file: Path) -> None:
    """Make sure that an array is as large as its header says, which memory is taken by."""
    from numpy.lib import format as npy

    names = {name for name in (key, f"{key}.npy") if name in archive.NameToInfo}
    for info in map(archive.getinfo, names):
        check_unpacked(info.file_size, file, f"'{key}'")
        with archive.open(info) as member:
            version = npy.read_magic(member)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(member)
            stated = math.prod(shape) * dtype.itemsize + member.tell()
        if min(shape, default=0) < 0 or (stated != info.file_size and not dtype.hasobject):
            raise ValueError(f"'{key}' has {info.file_size:,} bytes and says {stated:,}")


def _pick(content: Mapping[str, Any], keys: tuple[str, ...], file: Path) -> Any:
    for key in keys:
        if key in content:
            return _flat(content[key], key, file)
    found = ", ".join(map(str, content)) or "nothing"
    raise UsageError(f"{file}: one of {', '.join(keys)} was expected in it, found {found}.")


def _flat(value: Any, key: str, file: Path) -> Any:
    """An array, or a list of numbers: one of lists of lists could make an array without end."""
    import numpy as np

    numbers = isinstance(value, list | tuple) and all(
        isinstance(v, int | np.integer) for v in value
    )
    if numbers or isinstance(value, np.ndarray):
        return value
    raise UsageError(
        f"{file}: '{key}' is a {type(value).__name__}; an array was expected, or for labels a list "
        "of whole numbers."
    )
