"""Pickles that may hold numpy arrays and plain values, and can do nothing.

A pickle is a program. This reader lets it call numpy's reconstruction of arrays, types and
scalars, and refuses everything else before it is even imported.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from robustprune.errors import UsageError

# Taken from what numpy itself would write: the functions' own homes differ between versions.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.int64(0).__reduce__()[0]


_MOST_ARRAYS = 100  # each may hold the same bytes once more
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


def _allowed() -> dict[tuple[str, str], Any]:
    """What a pickle may name, and what is called in its place, for one file."""
    left = iter(range(_MOST_ARRAYS))

    def empty(*given: Any) -> Any:
        """An array of no size, as those of numpy's pickles begin; its bytes say how large it is."""
        if next(left, None) is None:
            raise ValueError(f"it holds more than {_MOST_ARRAYS} arrays")
        return _RECONSTRUCT(np.ndarray, (0,), b"b")

    return {
        ("numpy", "ndarray"): None,  # numpy's, if called, makes an array of any size
        ("numpy", "dtype"): np.dtype,
        **{(module, "_reconstruct"): empty for module in _MODULES},
        **{(module, "scalar"): _scalar for module in _MODULES},
    }


def _scalar(*given: Any) -> Any:
    """A scalar of its type and bytes; without them, numpy takes as many as the type says."""
    dtype, data = given
    return _SCALAR(dtype, data)


class _ArrayUnpickler(pickle._Unpickler):
    """The one in Python: that in C takes memory by the numbers of notes that a file makes up."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UsageError(
                f"refused, because it asks to call '{module}.{name}', and only numpy arrays and "
                "plain values are read. If you trust it, save its arrays as .npz."
            ) from None


def read_arrays(file: Path) -> Mapping[str, Any]:
    """The dictionary in a pickle, of numpy arrays and plain values only.

    Raises:
        UsageError: the file asks for anything else (which is not executed), is damaged, or holds
            no dictionary.
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
