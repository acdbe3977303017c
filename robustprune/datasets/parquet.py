"""Datasets as the Hugging Face hub stores them: parquet files of encoded images.

What took seconds to decode is kept in $ROBUSTPRUNE_CACHE (~/.cache/robustprune if that is not set;
nowhere if it is empty). The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import torch
from pyarrow import types  # type: ignore[attr-defined]
from pyarrow.lib import ArrowException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from robustprune.datasets.decode import decode
from robustprune.datasets.files import check_unpacked, checked
from robustprune.errors import UsageError
from robustprune.files import replacing
from robustprune.types import Images

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label", "labels")

HELD, MOST_ROWS = 2**25, 1024
"""Bytes and rows of a file that are held encoded at a time."""
WORTHWHILE = 5_000
"""Fewer images than this are decoded faster than anyone notices, and not kept."""


def shards(root: Path, split: str) -> list[Path]:
    """Return the files of a split in ``root`` or a folder below, in order; none if there are none.

    Raises:
        UsageError: the names say that there should be more.
        OSError: ``root`` cannot be listed.
    """
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in (root, root / "data", *below):
        if files := sorted(folder.glob(f"{split}-*.parquet")):
            promised = re.search(r"-of-(\d+)\.parquet$", files[0].name)
            if promised and int(promised[1]) != len(files):
                raise UsageError(
                    f"{folder}: of {int(promised[1])} files like {files[0].name} there are "
                    f"{len(files)}. Fetch the others, or leave only one version in the folder."
                )
            return files
    return []


def read(files: Sequence[Path], *, channels: int, size: int, num_classes: int) -> Images:
    """Return all images of the files: uint8 ``(n, channels, size, size)``, and int64 labels.

    They are decoded once for the files' paths, sizes and times of change.

    Raises:
        UsageError: a file is damaged or holds something else; it is named.
    """
    expected = {"channels": channels, "size": size, "num_classes": num_classes}
    known = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([known, repr(expected)]).encode()).hexdigest()[:32]
    folder = os.environ.get("ROBUSTPRUNE_CACHE", "~/.cache/robustprune")
    place = Path(os.path.expanduser(folder)) / "images" / f"{key}.safetensors"
    if folder:
        with suppress(OSError, SafetensorError, KeyError):  # nothing there, or damaged
            return Images(**load_file(place))
    parts = []
    for file in files:
        try:
            pixels, labels = _decoded(file, channels=channels, size=size)
        except UsageError:
            raise
        except (ArrowException, OSError, ValueError, IndexError) as error:
            message = f"{file}: not a readable parquet file ({error}). Fetch it again."
            raise UsageError(message) from None
        parts.append(checked(pixels, labels, **expected, where=str(file)))
    images = Images(*map(torch.cat, zip(*parts, strict=True)))
    if folder and len(images.labels) >= WORTHWHILE:
        # a full or read-only disk costs time, not the run
        with suppress(OSError, SafetensorError), replacing(place) as temporary:
            save_file(images._asdict(), temporary)
    return images


def _decoded(file: Path, *, channels: int, size: int) -> tuple[Any, Any]:
    """Decode all rows, so few at a time that their largest page fits in memory once for each."""
    mode = "L" if channels == 1 else "RGB"
    with pq.ParquetFile(file) as parquet:  # type: ignore[no-untyped-call]
        image, leaf, label = _columns(parquet.schema_arrow, file)
        sizes = list(page_sizes(file, parquet.metadata, [leaf, label]))
        check_unpacked(sum(sizes), file, "what is compressed in it")
        shape = (parquet.metadata.num_rows, size, size, channels)
        check_unpacked(math.prod(shape), file, f"{shape[0]:,} images")
        pixels, labels = np.empty(shape, dtype=np.uint8), []
        step = min(max(HELD // max([1, *sizes]), 1), MOST_ROWS)
        row = 0
        for batch in parquet.iter_batches(step, columns=[leaf, label], use_threads=False):
            column = batch.column(image)
            encoded = column.field("bytes") if leaf != image else column
            for data in encoded.to_pylist():
                where = f"{file}, row {row}"
                if not data:
                    raise UsageError(f"{where}: there are no image bytes in it, only a path.")
                decoded = decode(BytesIO(data), mode=mode, size=size, where=where)
                pixels[row] = np.asarray(decoded).reshape(shape[1:])
                row += 1
            labels.append(batch.column(label).to_numpy(zero_copy_only=False))
    return pixels[:row], np.concatenate(labels) if labels else np.empty(0, np.int64)


def _columns(schema: Any, file: Path) -> tuple[str, str, str]:
    """Name the image's column, the leaf in it that holds the bytes, and the label's column."""
    kinds = {field.name: field.type for field in schema}
    image = next((name for name in IMAGE_COLUMNS if name in kinds), "")
    label = next((name for name in LABEL_COLUMNS if name in kinds), "")
    content: Any = kinds.get(image)
    leaf = image
    if image and types.is_struct(content) and content.get_field_index("bytes") >= 0:
        content, leaf = content.field("bytes").type, f"{image}.bytes"
    encoded = image and (types.is_binary(content) or types.is_large_binary(content))
    if not (encoded and label and types.is_integer(kinds[label])):
        raise UsageError(
            f"{file}: expected encoded images in a column called {' or '.join(IMAGE_COLUMNS)}, and "
            f"whole numbers in one called {' or '.join(LABEL_COLUMNS)}; its columns are "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. Rename them."
        )
    return image, leaf, label


def page_sizes(file: Path, metadata: Any, columns: Sequence[str]) -> Iterator[int]:
    """Yield the bytes that each page of some columns, e.g. ``img.bytes``, takes decompressed.

    They are read in the pages' headers, by which arrow takes memory; the sums in the file's
    metadata, a ``pyarrow.parquet.FileMetaData``, need not agree with them.

    Raises:
        ValueError, IndexError: a header is damaged, or ends too early.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    with file.open("rb") as stream:
        for chunk in chunks:
            if chunk.path_in_schema not in columns or not chunk.num_values:
                continue
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                start = min(start, chunk.dictionary_page_offset)
            stream.seek(start)
            while stream.tell() < start + chunk.total_compressed_size:
                header = _thrift_struct(stream)
                unpacked, packed = header.get(2, -1), header.get(3, -1)  # fields of PageHeader
                if unpacked < 0 or packed < 0:
                    raise ValueError("a page does not say how large it is")
                yield unpacked
                stream.seek(packed, 1)


def _thrift_struct(stream: BinaryIO, depth: int = 0) -> dict[int, int]:
    """Read the whole numbers in a struct of Thrift's compact protocol, and skip other fields."""
    if depth > 8:
        raise ValueError("a page's header is nested too deeply")
    found: dict[int, int] = {}
    field = 0
    while byte := stream.read(1)[0]:  # 0 ends a struct
        field = field + (byte >> 4) if byte >> 4 else _zigzag(stream)
        kind = byte & 15
        if kind in (4, 5, 6):  # integers of 16, 32 and 64 bits
            found[field] = _zigzag(stream)
        elif kind == 12:
            _thrift_struct(stream, depth + 1)
        elif kind in (3, 7, 8):  # a byte, a double, a string
            stream.seek({3: 1, 7: 8}.get(kind) or _varint(stream), 1)
        elif kind not in (1, 2):  # true and false take no more bytes
            raise ValueError(f"a page's header has a field of kind {kind}")
    return found


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number in a page's header is too long")


def _zigzag(stream: BinaryIO) -> int:
    value = _varint(stream)
    return value >> 1 ^ -(value & 1)
