"""What became of each test image, from a network's ``images.parquet``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def read_column(path: Path, name: str) -> Array | None:
    """A column of a table of images up to its first null; None if it cannot be read."""
    pa = _pyarrow()
    try:
        column = pa.parquet.read_table(path, columns=[name])[name]
        return np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def _pyarrow() -> Any:
    """The library, which has no types; imported when it is needed."""
    import pyarrow.parquet

    return pyarrow
