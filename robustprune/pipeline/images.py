"""What became of each test image: a table with a column for each entry of an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.files import replacing

if TYPE_CHECKING:
    from robustprune.evaluators import Evaluator
    from robustprune.evaluators.base import PerImage

_OWNER = b"evaluator"  # the key under which a column says whose it is
_OWN = ("index", "label")
_ENDINGS = (".csv", ".parquet")


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
        """Take in an evaluator's entries in place of those that it may have.

        Args:
            evaluator: its metric.
            labels: ``(n,)``, int64, of the first n test images.
            images: tensors of length n by name.

        Raises:
            UsageError: another evaluator has an entry of the same name.
        """
        self._columns = {k: v for k, v in self._columns.items() if v[0] != evaluator}
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

    def entry(self, name: str) -> Tensor:
        """The values of one entry, of length n for the evaluator's own number n of images."""
        return self._columns[name][1]

    def arrow(self) -> Any:
        """A ``pyarrow.Table``: ``index``, ``label`` and the entries.

        An entry is null where its evaluator did not judge the image.
        """
        pa = _pyarrow()
        fields = [pa.field(name, pa.int64()) for name in _OWN]
        arrays = [pa.array(np.arange(len(self.labels))), pa.array(self.labels.numpy())]
        for name, (owner, values) in self._columns.items():
            array = pa.array(_numpy(values))
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
        """The entries of some evaluators in a parquet file that `write` wrote.

        Those that are not there are left out, which is all of them if the file is missing or
        damaged.

        Args:
            path: the file.
            evaluators: metrics.
        """
        pa = _pyarrow()
        wanted, found = set(evaluators), cls()
        try:
            if wanted:
                found._take(pa.parquet.read_table(path), wanted)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            return cls()
        return found

    def _take(self, table: Any, wanted: set[str]) -> None:
        self.labels = _tensor(table["label"])
        for field in table.schema:
            owner = (field.metadata or {}).get(_OWNER, b"").decode()
            if owner in wanted:
                self._columns[field.name] = (owner, _tensor(table[field.name]))
        lengths = [len(values) for _, values in self._columns.values()]
        self.labels = self.labels[: max(lengths, default=0)]  # as many as those evaluators judged


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


def check_columns(evaluators: Iterable[Evaluator]) -> None:
    """Make sure that no evaluator's metric is called like a column of the table itself.

    Raises:
        UsageError: one is.
    """
    for evaluator in evaluators:
        if evaluator.metric in _OWN:
            raise UsageError(
                f"evaluator '{evaluator.registered_name}': the label '{evaluator.metric}' is the "
                "name of a column of every table of images. Give it another one."
            )


def _pyarrow() -> Any:
    """The library, which has no types; imported when it is needed."""
    import pyarrow.csv
    import pyarrow.parquet

    return pyarrow


def _numpy(values: Tensor) -> Any:
    """Booleans, int64, float32 or float64: what comes back from a file as it went in."""
    if values.dtype in (torch.bool, torch.float32, torch.float64):
        return values.numpy()
    return (values.float() if values.is_floating_point() else values.long()).numpy()


def _tensor(column: Any) -> Tensor:
    """The column up to its first null."""
    return torch.from_numpy(np.array(column.drop_null().to_numpy()))
