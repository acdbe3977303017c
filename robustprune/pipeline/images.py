"""The table of test images: a column for each entry of an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.evaluators.accuracy import PerImage
from robustprune.files import replacing

_OWNER = b"evaluator"  # the key under which a column says whose it is
_OWN = ("index", "label")
_ENDINGS = (".csv", ".parquet")
_EXACT = (torch.bool, torch.float32, torch.float64)


class ImageTable:
    """The entries of some evaluators, each about the first images of the same test set.

    Attributes:
        labels: ``(n,)``, int64, of as many images as the evaluator with most of them has judged.
    """

    def __init__(self) -> None:
        self.labels = torch.zeros(0, dtype=torch.int64)
        self._columns: dict[str, tuple[str, Tensor]] = {}

    @property
    def evaluators(self) -> set[str]:
        """The metrics of the evaluators that have entries."""
        return {owner for owner, _ in self._columns.values()}

    def add(self, evaluator: str, labels: Tensor, images: PerImage) -> None:
        """Take in the entries of an evaluator, named by its metric: tensors of length n by name.

        ``labels`` are those of the first n test images: ``(n,)``, int64.

        Raises:
            UsageError: another evaluator, or the table itself, has an entry of the same name.
        """
        for name in images:
            other = self._columns.get(name, (evaluator, None))[0]
            if other != evaluator or name in _OWN:
                whose = "the table of images itself" if name in _OWN else f"evaluator '{other}'"
                raise UsageError(
                    f"evaluator '{evaluator}': {whose} has a column '{name}' too. Give the "
                    "evaluator another label."
                )
        self._columns |= {name: (evaluator, values) for name, values in images.items()}
        self.labels = max(self.labels, labels, key=len)

    def entries(self, evaluator: str) -> PerImage:
        """An evaluator's entries, each as long as the number of images that it has judged."""
        return {n: values for n, (owner, values) in self._columns.items() if owner == evaluator}

    def arrow(self) -> Any:
        """A ``pyarrow.Table``: ``index``, ``label`` and the entries.

        An entry is null where its evaluator did not judge the image.
        """
        pa = _pyarrow()
        fields = [pa.field(name, pa.int64()) for name in _OWN]
        arrays = [pa.array(np.arange(len(self.labels))), pa.array(self.labels.numpy())]
        for name, (owner, values) in self._columns.items():
            if values.dtype not in _EXACT:  # as it comes back from a file
                values = values.float() if values.is_floating_point() else values.long()
            array = pa.array(values.numpy())
            missing = pa.nulls(len(self.labels) - len(array), array.type)
            arrays.append(pa.concat_arrays([array, missing]))
            fields.append(pa.field(name, array.type, metadata={_OWNER: owner.encode()}))
        return pa.table(arrays, schema=pa.schema(fields))

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all. The path ends as `check_ending` demands."""
        pa = _pyarrow()
        writers = {".csv": pa.csv.write_csv, ".parquet": pa.parquet.write_table}
        with replacing(path) as temporary:
            writers[path.suffix](self.arrow(), str(temporary))

    @classmethod
    def read(cls, path: Path, evaluators: Iterable[str]) -> Self:
        """The entries of evaluators, by their metrics, in a parquet file that `write` wrote.

        Those that are not there are left out: all of them if the file is missing or damaged.
        """
        pa = _pyarrow()
        wanted, found = set(evaluators), cls()
        try:
            content = pa.parquet.read_table(path)
            labels = _tensor(content["label"])
            for field in content.schema:
                owner = (field.metadata or {}).get(_OWNER, b"").decode()
                if owner in wanted:
                    values = _tensor(content[field.name])
                    found.add(owner, labels[: len(values)], {field.name: values})
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            return cls()
        return found


def check_ending(path: Path) -> None:
    """Make sure that the ending says how a table is to be written.

    Raises:
        UsageError: it is neither ``.csv`` nor ``.parquet``.
    """
    if path.suffix not in _ENDINGS:
        raise UsageError(
            f"cannot write images to {path}: the ending '{path.suffix}' says no format. End it in "
            f"{' or '.join(_ENDINGS)}."
        )


def _pyarrow() -> Any:
    """The library, which has no types; it is heavy, and a run without evaluators needs none."""
    import pyarrow.csv
    import pyarrow.parquet

    return pyarrow


def _tensor(column: Any) -> Tensor:
    """The column up to its first null."""
    return torch.from_numpy(np.array(column.drop_null().to_numpy()))
