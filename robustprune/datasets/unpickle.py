"""Pickles that may hold numpy arrays and plain values, and can do nothing.

A pickle is a program. This reader lets it call numpy's reconstruction of arrays, types and
scalars, and refuses everything else before it is even imported.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustprune.errors import UsageError

# Taken from what numpy itself would write: the functions' own homes differ between versions.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.int64(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
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
