"""Pseudo-labelled images that are added to the training batches (Carmon et al. 2019).

A pickle is a program. The reader here runs none of it but numpy's reconstruction of arrays.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from pydantic import Field

from robustprune.components import Options
from robustprune.datasets.files import check_unpacked, checked, missing, places
from robustprune.errors import UsageError
from robustprune.types import Images

IMAGE_KEYS = ("images", "data", "X")
LABEL_KEYS = ("labels", "y", "extrapolated_targets")

# Taken from what numpy itself would write: the functions' own homes differ between versions.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.int64(0).__reduce__()[0]

_MOST_ARRAYS = 100  # each may hold the same bytes once more


class Extra(Options):
    """The file of the images, and their number in each batch."""

    path: Path
    """A file: .npz (images, labels), .parquet (the Hugging Face hub's columns), or .pickle (as
    published by Carmon et al.: data, extrapolated_targets). Looked for like a dataset's root."""
    per_batch: int = Field(128, gt=0)
    """Images added to each batch; on all processes together."""

    def load(self, *, channels: int, size: int, num_classes: int) -> Images:
        """Return all images of the file: uint8 ``(n, channels, size, size)``, and int64 labels.

        Raises:
            UsageError: the file is missing, damaged, refused, or does not fit the dataset.
        """
        candidates = places(self.path, self.path.name)
        file = next((place for place in candidates if place.is_file()), None)
        if file is None:
            remedy = (
                "Set 'data.extra.path' to a .npz, .parquet or .pickle file, or leave out "
                "'data.extra'. Those of Carmon et al. are called ti_500K_pseudo_labeled.pickle."
            )
            raise missing("the extra images were", "a file", candidates, remedy)
        expected = {"channels": channels, "size": size, "num_classes": num_classes}
        if file.suffix == ".parquet":
            from robustprune.datasets import parquet  # and pyarrow, which the others do without

            return parquet.read([file], **expected)
        readers = {".npz": _read_npz, ".pickle": read_arrays, ".pkl": read_arrays}
        if file.suffix not in readers:
            raise UsageError(f"{file}: extra images come from .npz, .parquet, .pickle or .pkl.")
        content = readers[file.suffix](file)
        images, labels = (_pick(content, keys, file) for keys in (IMAGE_KEYS, LABEL_KEYS))
        return checked(images, labels, **expected, where=str(file))


def _read_npz(file: Path) -> Mapping[str, Any]:
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
    """Make sure that an array is as large as its header says, by which memory is taken."""
    for info in (info for info in archive.infolist() if info.filename in (key, f"{key}.npy")):
        check_unpacked(info.file_size, file, f"'{key}'")
        with archive.open(info) as member:
            version = npy.read_magic(member)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(member)
            stated = math.prod(shape) * dtype.itemsize + member.tell()
        if min(shape, default=0) < 0 or (stated != info.file_size and not dtype.hasobject):
            raise ValueError(f"'{key}' has {info.file_size:,} bytes and says {stated:,}")


def _pick(content: Mapping[str, Any], keys: tuple[str, ...], file: Path) -> Any:
    """Return the value of the first key that is there: an array, or a list of numbers.

    A list of lists is refused, because it could make an array without end.
    """
    for key in (key for key in keys if key in content):
        value = content[key]
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, list) and all(isinstance(v, int | np.integer) for v in value):
            return value
        kind = type(value).__name__
        raise UsageError(f"{file}: '{key}' is a {kind}; expected an array, or a list of labels.")
    found = ", ".join(map(str, content)) or "nothing"
    raise UsageError(f"{file}: one of {', '.join(keys)} was expected in it, found {found}.")


class _ArrayUnpickler(pickle._Unpickler):
    """Calls numpy's reconstruction of arrays, types and scalars, and imports nothing else.

    It is the one in Python: that in C takes memory by the numbers of notes that a file makes up.
    """

    _arrays = 0

    def find_class(self, module: str, name: str) -> Any:
        """Return what is called in place of a function that the pickle names."""
        home = module.replace("numpy._core.", "numpy.core.")
        if (home, name) == ("numpy", "ndarray"):
            return None  # numpy's, if called, makes an array of any size
        if (home, name) == ("numpy", "dtype"):
            return np.dtype
        if (home, name) == ("numpy.core.multiarray", "_reconstruct"):
            return self._empty
        if (home, name) == ("numpy.core.multiarray", "scalar"):
            return lambda dtype, data: _SCALAR(dtype, data)  # without bytes, it takes any size
        raise UsageError(
            f"refused, because it asks to call '{module}.{name}', and only numpy arrays and "
            "plain values are read. If you trust it, save its arrays as .npz."
        )

    def _empty(self, *_: Any) -> Any:
        """Return an array of no size, as numpy's pickles begin; its bytes say how large it is."""
        self._arrays += 1
        if self._arrays > _MOST_ARRAYS:
            raise ValueError(f"it holds more than {_MOST_ARRAYS} arrays")
        return _RECONSTRUCT(np.ndarray, (0,), b"b")


def read_arrays(file: Path) -> Mapping[str, Any]:
    """Return the dictionary in a pickle, of numpy arrays and plain values only.

    Raises:
        UsageError: it asks for anything else (which is not executed), or is damaged.
    """
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream).load()
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise UsageError(f"{file}: not a readable pickle ({error}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: expected a dictionary, found {type(content).__name__}.")
    return content
