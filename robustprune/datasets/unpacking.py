"""Sizes that a file states, held against the file before memory is taken for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from robustprune.errors import UsageError

FREE = 2**28
"""Bytes that any file may unpack to."""
MOST_TIMES = 100
"""How many times its size a file may unpack to beyond that; photographs take 1 to 10."""

_STOP, _BOOLS, _BYTE, _DOUBLE, _BINARY = 0, (1, 2), 3, 7, 8  # of Thrift's compact protocol
_VARINTS, _STRUCT = (4, 5, 6), 12
_UNCOMPRESSED, _COMPRESSED = 2, 3  # fields of a page's header
_DEEPEST = 8


def check_unpacked(size: int, file: Path, what: str) -> None:
    """Refuse a file that is small and says that it is large once it is unpacked.

    Args:
        size: in bytes, as far as the file says.
        file: the file.
        what: takes that much, e.g. ``its images``.

    Raises:
        UsageError: it says too much.
    """
    held = file.stat().st_size
    if size > max(FREE, MOST_TIMES * held):
        raise UsageError(
            f"{file}: {what} would take {size:,} bytes, and the file has {held:,}: more than "
            f"{MOST_TIMES} times as much. Images do not compress like that; fetch it again."
        )


def pages(file: Path, metadata: Any, columns: Sequence[str]) -> Iterator[int]:
    """The size of each page of some columns of a parquet file once it is decompressed, in bytes.

    The header of each page is read, because that is what the library takes memory by; the sums in
    the file's metadata need not agree.

    Args:
        file: a parquet file.
        metadata: its ``pyarrow.parquet.FileMetaData``.
        columns: by their paths in the schema, e.g. ``img.bytes``.

    Raises:
        ValueError: a header is damaged.
    """
    with file.open("rb") as stream:
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for number in range(metadata.num_columns):
                chunk = row_group.column(number)
                if chunk.path_in_schema in columns and chunk.num_values:
                    yield from _chunk(stream, chunk)


def _chunk(stream: BufferedReader, chunk: Any) -> Iterator[int]:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    end = start + chunk.total_compressed_size
    stream.seek(start)
    while stream.tell() < end:
        header = _struct(stream, deep=0)
        uncompressed, compressed = (header.get(n, -1) for n in (_UNCOMPRESSED, _COMPRESSED))
        if uncompressed < 0 or compressed < 0:
            raise ValueError("a page does not say how large it is")
        yield uncompressed
        stream.seek(compressed, 1)


def _struct(stream: BinaryIO, *, deep: int) -> dict[int, int]:
    """The whole-numbered fields of a struct; the others are passed over."""
    if deep > _DEEPEST:
        raise ValueError("a page's header is nested too deeply")
    found: dict[int, int] = {}
    field = 0
    while (byte := _byte(stream)) != _STOP:
        delta, kind = byte >> 4, byte & 15
        field = field + delta if delta else _zigzag(stream)
        value = _value(stream, kind, deep=deep)
        if value is not None:
            found[field] = value
    return found


def _value(stream: BinaryIO, kind: int, *, deep: int) -> int | None:
    if kind in _VARINTS:
        return _zigzag(stream)
    if kind == _STRUCT:
        _struct(stream, deep=deep + 1)
    elif kind == _BINARY:
        stream.seek(_varint(stream), 1)
    elif kind in (_BYTE, _DOUBLE):
        stream.seek(1 if kind == _BYTE else 8, 1)
    elif kind not in _BOOLS:
        raise ValueError(f"a page's header has a field of kind {kind}")
    return None


def _byte(stream: BinaryIO) -> int:
    read = stream.read(1)
    if not read:
        raise ValueError("a page's header ends too early")
    return read[0]


def _varint(stream: BinaryIO) -> int:
    value = shift = 0
    while (byte := _byte(stream)) & 128:
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a number in a page's header is too long")
    return value | byte << shift


def _zigzag(stream: BinaryIO) -> int:
    value = _varint(stream)
    return value >> 1 ^ -(value & 1)
