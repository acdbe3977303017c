"""Datasets as the Hugging Face hub stores them: parquet files of encoded images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.datasets.base import few
from robustprune.datasets.cache import cached
from robustprune.datasets.decode import decode
from robustprune.datasets.tensors import checked
from robustprune.datasets.unpacking import check_unpacked, pages
from robustprune.errors import UsageError
from robustprune.types import Images

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label", "labels")

_HELD, _MOST_ROWS = 2**25, 1024  # bytes and rows that are held encoded


def shards(root: Path, split: str) -> list[Path]:
    """The files of a split, in order; empty if there are none.

    They may lie in ``root``, in ``root/data`` or in the folder of a configuration below it.

    Raises:
        UsageError: the names say that there should be more, or ``root`` cannot be listed.
    """
    if not root.is_dir():
        return []
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise UsageError(f"{root}: the folder cannot be listed ({error}).") from None
    for folder in (root, root / "data", *below):
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if files:
            _check_complete(files)
            return files
    return []


def read(files: Sequence[Path], *, channels: int, size: int, num_classes: int) -> Images:
    """All images of the files, decoded.

    Returns:
        uint8 images ``(n, channels, size, size)`` and int64 labels ``(n,)``.

    Raises:
        UsageError: a file is damaged or holds something else; it is named.
    """
    expected = {"channels": channels, "size": size, "num_classes": num_classes}

    def read_all() -> Images:
        parts = [_read_file(file, **expected) for file in files]
        return Images(*map(torch.cat, zip(*parts, strict=True)))

    return cached(files, expected, read_all)


def check_names(files: Sequence[Path], names: Sequence[str]) -> None:
    """Make sure that the files mean the same by a label, if they say what they mean.

    Args:
        files: of one dataset.
        names: its classes in the order of their labels; empty if it has none.

    Raises:
        UsageError: a file is damaged, or names other classes.
    """
    for file in files:
        stated = _names(file)
        if names and stated and list(map(_plain, stated)) != list(map(_plain, names)):
            raise UsageError(
                f"{file}: its classes are {few(stated)}, and those of the dataset {few(names)}. Is "
                "this another dataset?"
            )


def _names(file: Path) -> list[str]:
    """The names of the classes that the hub's metadata states; none if there are none."""
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        schema = pq.read_schema(file)  # type: ignore[no-untyped-call]
    except (ArrowException, OSError) as error:
        raise _unreadable(file, error) from None
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(map(str, features[_columns(schema, file)[2]]["names"]))
    except (KeyError, TypeError, ValueError):  # a UsageError, too: `read` tells it
        return []


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def _unreadable(file: Path, error: Exception) -> UsageError:
    return UsageError(f"{file}: not a readable parquet file ({error}). Fetch it again.")


def _check_complete(files: Sequence[Path]) -> None:
    promised = re.search(r"-of-(\d+)\.parquet$", files[0].name)
    if promised and int(promised[1]) != len(files):
        raise UsageError(
            f"{files[0].parent}: of {int(promised[1])} files like {files[0].name} there are "
            f"{len(files)}. Fetch the others, or leave only one version in the folder."
        )


def _read_file(file: Path, *, channels: int, size: int, num_classes: int) -> Images:
    from pyarrow.lib import ArrowException

    expected = {"channels": channels, "size": size, "num_classes": num_classes}
    try:
        pixels, labels = _decoded(file, channels=channels, size=size)
    except UsageError:
        raise
    except (ArrowException, OSError, ValueError, IndexError) as error:
        raise _unreadable(file, error) from None
    return checked(pixels, labels, **expected, where=str(file))


def _decoded(file: Path, *, channels: int, size: int) -> tuple[Any, Any]:
    """Pixels and labels of all rows, of which a few at a time are held encoded.

    How many, is what keeps a file small that repeats one image: its page may stand for each row.
    """
    import pyarrow.parquet as pq

    mode = "L" if channels == 1 else "RGB"
    with pq.ParquetFile(file) as parquet:  # type: ignore[no-untyped-call]
        image, leaf, label = _columns(parquet.schema_arrow, file)
        sizes = list(pages(file, parquet.metadata, [leaf, label]))
        check_unpacked(sum(sizes), file, "what is compressed in it")
        shape = (parquet.metadata.num_rows, size, size, channels)
        check_unpacked(math.prod(shape), file, f"{shape[0]:,} images")
        pixels, labels = np.empty(shape, dtype=np.uint8), []
        step = min(max(_HELD // max([1, *sizes]), 1), _MOST_ROWS)
        row = 0
        for batch in parquet.iter_batches(step, columns=[leaf, label], use_threads=False):
            column = batch.column(image)
            encoded = column.field("bytes") if leaf != image else column
            for data in encoded.to_pylist():
                pixels[row] = _pixels(data, f"{file}, row {row}", mode, size).reshape(shape[1:])
                row += 1
            labels.append(batch.column(label).to_numpy(zero_copy_only=False))
    return pixels[:row], np.concatenate(labels) if labels else np.empty(0, np.int64)


def _pixels(data: bytes | None, where: str, mode: str, size: int) -> Any:
    if not data:
        raise UsageError(f"{where}: there are no image bytes in it, only a path, or nothing.")
    return np.asarray(decode(BytesIO(data), mode=mode, size=size, where=where))


def _columns(schema: Any, file: Path) -> tuple[str, str, str]:
    """The names of the image's column, of the leaf in it that holds the bytes, and of the label's.

    Raises:
        UsageError: they cannot be told.
    """
    from pyarrow import types  # type: ignore[attr-defined]

    image = _column(schema, file, "image", IMAGE_COLUMNS, _holds_images)
    label = _column(schema, file, "label", LABEL_COLUMNS, types.is_integer)
    nested = types.is_struct(schema.field(image).type)
    return image, f"{image}.bytes" if nested else image, label


def _holds_images(kind: Any) -> bool:
    from pyarrow import types  # type: ignore[attr-defined]

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _column(schema: Any, file: Path, what: str, preferred: Sequence[str], fits: Any) -> str:
    """The column of the right type; of several, the one with a usual name."""
    found = [field.name for field in schema if fits(field.type)]
    usual = [name for name in preferred if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    kinds = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UsageError(
        f"{file}: cannot tell which column is the {what}: one called "
        f"{' or '.join(preferred)} was expected, the columns are {kinds}."
    )
