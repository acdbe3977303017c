"""Datasets as the Hugging Face hub stores them: parquet files of encoded images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.datasets.cache import cached
from robustprune.datasets.decode import decode
from robustprune.datasets.tensors import checked
from robustprune.errors import UsageError
from robustprune.types import Images

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label", "labels")


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


def _check_complete(files: Sequence[Path]) -> None:
    promised = re.search(r"-of-(\d+)\.parquet$", files[0].name)
    if promised and int(promised[1]) != len(files):
        raise UsageError(
            f"{files[0].parent}: of {int(promised[1])} files like {files[0].name} there are "
            f"{len(files)}. Fetch the others, or leave only one version in the folder."
        )


def _read_file(file: Path, *, channels: int, size: int, num_classes: int) -> Images:
    encoded, labels = _columns(file)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.empty((len(encoded), size, size, channels), dtype=np.uint8)
    for row, data in enumerate(encoded):
        where = f"{file}, row {row}"
        if not data:
            raise UsageError(f"{where}: there are no image bytes in it, only a path, or nothing.")
        image = decode(BytesIO(data), mode=mode, size=size, where=where)
        pixels[row] = np.asarray(image).reshape(size, size, channels)
    return checked(
        pixels, labels, channels=channels, size=size, num_classes=num_classes, where=str(file)
    )


def _columns(file: Path) -> tuple[list[bytes | None], Any]:
    import pyarrow.parquet as pq
    from pyarrow import types  # type: ignore[attr-defined]
    from pyarrow.lib import ArrowException

    try:
        schema = pq.read_schema(file)  # type: ignore[no-untyped-call]
        image = _column(schema, file, "image", IMAGE_COLUMNS, _holds_images)
        label = _column(schema, file, "label", LABEL_COLUMNS, types.is_integer)
        table = pq.read_table(file, columns=[image, label])  # type: ignore[no-untyped-call]
    except (ArrowException, OSError) as error:
        raise UsageError(
            f"{file}: not a readable parquet file ({error}). Fetch it again."
        ) from None
    rows = table.column(image).combine_chunks()
    encoded = rows.field("bytes") if types.is_struct(rows.type) else rows
    return encoded.to_pylist(), table.column(label).to_numpy()


def _holds_images(kind: Any) -> bool:
    from pyarrow import types  # type: ignore[attr-defined]

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
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
