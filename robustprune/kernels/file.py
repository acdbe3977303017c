"""Sparse files: a network's operations and the weights that it keeps, in one small file.

Little-endian, one after the other:

| bytes | content |
| --- | --- |
| 8 | ``b"rpsparse"`` |
| 4 | version of the format, 1 |
| 32 | SHA-256 of all that follows |
| 24 | lengths of three zstd frames, which state their contents' sizes |
| | `manifest`, `positions`, `values` |

The manifest is JSON: ``{"shape": [C, H, W], "operations": […], "metadata": {…}}``, an operation is
``{"kind", "inputs", "options", "arrays": {name: entry}}`` as `Operation` says, and an entry
``{"shape", "kept", "coding", "position_bytes"}``. Positions are coded as in `positions`; where
`coding` is null, there is a value for every element. Values are float32 in byte planes, array by
array in the manifest's order: their first (lowest) bytes, their second bytes, and so on.

A file is anybody's. Sizes are checked before memory is taken, and nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

from .operations import Array, Operation, Shape, shapes
from .positions import WORTHWHILE, Bytes, Coding, decode, encode, longest

SUFFIX = ".sparse"
VERSION = 1

ROOM = 2**28
"""Bytes that the weights of any file may take once they are dense."""
LARGEST = 2**26
"""Numbers that all values of one image may have together, padding included."""

_MAGIC = b"rpsparse"
_HEAD = struct.Struct("<8sI32s")
_LENGTHS = struct.Struct("<3Q")
_LEVEL = 3  # more only finds chance repetitions: slower, and no smaller
_MANIFEST = 2**22  # bytes
_MOST = 2**12  # operations
_SMALLER = 1000  # times, that a file may be than its dense weights
_WIDEST = 2**31  # elements of an array


class FileError(ValueError):
    """A file is missing, damaged or no sparse file. The message is a line that names it."""


@dataclass(frozen=True)
class Kept:
    """An array of which some elements are not zero.

    Attributes:
        shape: of the whole array.
        values: those elements, float32 ``(kept,)``.
        places: where they stand in row-major order, uint32 ``(kept,)``; None: everywhere.
    """

    shape: Shape
    values: Array
    places: NDArray[np.uint32] | None

    def dense(self) -> Array:
        """The array, in memory of its own."""
        if self.places is None:
            return self.values.reshape(self.shape).copy()
        flat = np.zeros(math.prod(self.shape), np.float32)
        flat[self.places] = self.values
        return flat.reshape(self.shape)


class KeptArrays(Mapping[str, Array]):
    """An operation's arrays, each made dense when it is asked for, and not held."""

    def __init__(self, kept: Mapping[str, Kept]) -> None:
        self.kept = dict(kept)

    def __getitem__(self, name: str) -> Array:
        return self.kept[name].dense()

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


def write(
    path: Path, operations: Sequence[Operation], shape: Shape, metadata: Mapping[str, Any]
) -> None:
    """Write a network; equal networks are equal files.

    Args:
        path: the file.
        operations: their arrays are float32.
        shape: of one image, (C, H, W) or (F,).
        metadata: JSON values; ``classes``, if it is there, are the names of the outputs.

    Raises:
        ValueError: the operations do not fit each other, or a weight is no finite number.
    """
    shapes(operations, shape)
    described, positions, values = [], [], []
    for number, operation in enumerate(operations):
        entries = {}
        for name, array in sorted(operation.arrays.items()):
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} of operation {number} has other than finite float32")
            entries[name], coded, planes = _packed(array)
            positions.append(coded)
            values.append(planes)
        one = {"kind": operation.kind, "inputs": list(operation.inputs)}
        described.append({**one, "options": dict(operation.options), "arrays": entries})
    manifest = {"shape": list(shape), "operations": described, "metadata": dict(metadata)}
    text = json.dumps(manifest, sort_keys=True, allow_nan=False, separators=(",", ":"))
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    contents = (text.encode(), b"".join(positions), b"".join(values))
    frames = [compress(content) for content in contents]
    body = _LENGTHS.pack(*map(len, frames)) + b"".join(frames)
    path.write_bytes(_HEAD.pack(_MAGIC, VERSION, hashlib.sha256(body).digest()) + body)


def read(path: Path) -> tuple[list[Operation], Shape, dict[str, Any]]:
    """The operations of a file, the shape of one image and the metadata; see `write`.

    The operations fit each other, and their arrays are dense only while they are used.

    Raises:
        FileError: the file is none that `write` wrote, or claims what no honest file would.
    """
    content = _content(path)
    try:
        manifest, positions, values = _frames(content)
        document = _document(manifest)
        shape = tuple(_list(document["shape"], "shape"))
        outline = _outline(document)
        entries = [
            entry for one in outline for entry in cast(Mapping[str, _Entry], one.arrays).values()
        ]
        _check_room(outline, shape, [math.prod(entry.shape) for entry in entries], len(content))
        wheres = _split(positions, [entry.position_bytes for entry in entries])
        whats = _split(values, [4 * entry.kept for entry in entries])
        kept = iter([_kept(*one) for one in zip(entries, wheres, whats, strict=True)])
        operations = [
            Operation(
                one.kind,
                one.inputs,
                one.options,
                KeptArrays({name: next(kept) for name in one.arrays}),
            )
            for one in outline
        ]
    except (ValueError, RecursionError, zstandard.ZstdError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FileError(f"{path} is damaged: {reason}.") from None
    return operations, shape, document["metadata"]


@dataclass(frozen=True)
class _Entry:
    """An array as the manifest describes it."""

    shape: Shape
    kept: int
    coding: Coding | None
    position_bytes: int


def _packed(array: Array) -> tuple[dict[str, Any], bytes, bytes]:
    """An array's entry, its positions and its values in byte planes."""
    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    where, coding, coded = flat != 0, None, b""
    if np.count_nonzero(where) <= WORTHWHILE * flat.size:
        coding, found = encode(where)
        flat, coded = flat[where], found.tobytes()
    entry = {"shape": list(array.shape), "kept": flat.size, "coding": coding}
    planes = flat.view(np.uint8).reshape(-1, 4).T.tobytes()
    return {**entry, "position_bytes": len(coded)}, coded, planes


def _kept(entry: _Entry, coded: Bytes, planes: Bytes) -> Kept:
    raw = planes.reshape(4, entry.kept).T.copy()
    values = raw.view("<f4").reshape(-1).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError("there are values that are no finite numbers")
    if entry.coding is None:
        return Kept(entry.shape, values, None)
    places = np.flatnonzero(decode(entry.coding, coded, math.prod(entry.shape)))
    if places.size != entry.kept:
        raise ValueError(f"there are {places.size} positions for {entry.kept} values")
    return Kept(entry.shape, values, places.astype(np.uint32))


def _content(path: Path) -> bytes:
    """What stands behind the head of a file, with the digest that the head names."""
    try:
        if not path.is_file():
            raise FileError(f"{path} is no file." if path.exists() else f"there is no file {path}.")
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if head[: len(_MAGIC)] != _MAGIC or len(head) < _HEAD.size:
                raise FileError(f"{path} is no file of format sparse.")
            _, version, digest = _HEAD.unpack(head)
            if version != VERSION:
                raise FileError(
                    f"{path} is of version {version} of the format, and version {VERSION} is read "
                    "here. A newer program may read it."
                )
            content = file.read()
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(content).digest() != digest:
        raise FileError(f"{path} is damaged: its content does not have the digest that it names.")
    return content


def _frames(content: bytes) -> list[bytes]:
    """The three frames."""
    if len(content) < _LENGTHS.size:
        raise ValueError("it is too short")
    lengths = _LENGTHS.unpack_from(content)
    if sum(lengths) != len(content) - _LENGTHS.size:
        raise ValueError("its frames do not have the lengths that it names")
    ends = np.cumsum([_LENGTHS.size, *lengths]).tolist()
    return [content[start:end] for start, end in pairwise(ends)]


def _document(frame: bytes) -> dict[str, Any]:
    size = zstandard.frame_content_size(frame)
    if not 0 <= size <= _MANIFEST:
        raise ValueError(f"its manifest would have {size} bytes")
    text = _decompressed(frame, size)
    document = json.loads(
        text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique
    )
    _mapping(document, {"shape", "operations", "metadata"}, "manifest")
    _mapping(document["metadata"], None, "metadata")
    return cast(dict[str, Any], document)


def _outline(document: dict[str, Any]) -> list[Operation]:
    """The operations, with entries for arrays."""
    described = _list(document["operations"], "operations", most=_MOST)
    outline = []
    for number, one in enumerate(described):
        place = f"operation {number}"
        _mapping(one, {"kind", "inputs", "options", "arrays"}, place)
        _mapping(one["options"], None, place)
        _mapping(one["arrays"], None, place)
        entries: Mapping[str, Any] = {
            name: _entry(entry, f"{name!r:.40} of {place}") for name, entry in one["arrays"].items()
        }
        inputs = tuple(_list(one["inputs"], place))
        outline.append(Operation(one["kind"], inputs, one["options"], entries))
    return outline


def _entry(found: Any, place: str) -> _Entry:
    """An array's entry; its numbers can be one array's."""
    _mapping(found, {"shape", "kept", "coding", "position_bytes"}, place)
    shape, coding = tuple(_list(found["shape"], place, most=4)), found["coding"]
    if not all(type(size) is int and 0 < size < _WIDEST for size in shape):
        raise ValueError(f"{place} has shape {shape!r:.60}")
    size, kept, length = math.prod(shape), found["kept"], found["position_bytes"]
    if size >= _WIDEST or type(kept) is not int or not 0 <= kept <= size:
        raise ValueError(f"{place} has shape {shape} and {kept!r:.20} values")
    if not (coding is None or coding == "gaps" or coding == "bits"):
        raise ValueError(f"{place} has positions coded as {coding!r:.20}")
    if type(length) is not int or not 0 <= length <= longest(coding, size, kept):
        raise ValueError(f"{place} has {length!r:.20} bytes of positions")
    if coding is None and kept != size:
        raise ValueError(f"{place} has values without positions")
    return _Entry(shape, kept, coding, length)


def _check_room(outline: list[Operation], shape: Shape, sizes: list[int], held: int) -> None:
    """Make sure that a network takes no more memory than an honest file's; shapes must agree."""
    weights = 4 * sum(sizes)
    if weights > max(ROOM, _SMALLER * held):
        raise ValueError(f"its {held:,} bytes would make {weights:,} bytes of weights")
    values = shapes(outline, shape)
    numbers = sum(map(math.prod, values))
    for one in outline:
        if padding := one.options.get("padding"):
            channels, *extents = values[one.inputs[0]]
            padded = (size + 2 * pad for size, pad in zip(extents, padding, strict=True))
            numbers += channels * math.prod(padded)
    if numbers > LARGEST:
        raise ValueError(f"an image would make {numbers:,} numbers, more than {LARGEST:,}")


def _split(frame: bytes, sizes: list[int]) -> list[Bytes]:
    """The content of a frame, cut into pieces of so many bytes."""
    content = np.frombuffer(_decompressed(frame, sum(sizes)), np.uint8)
    return np.split(content, np.cumsum(sizes)[:-1]) if sizes else []


def _decompressed(frame: bytes, size: int) -> bytes:
    """The content of a frame, if it has ``size`` bytes; nothing larger is made room for."""
    if zstandard.frame_content_size(frame) != size:
        raise ValueError(f"a frame does not have the {size} bytes that it should")
    found = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    if len(found) != size:
        raise ValueError(f"a frame does not have the {size} bytes that it should")
    return found


def _mapping(found: Any, keys: set[str] | None, place: str) -> None:
    if not isinstance(found, dict) or (keys is not None and found.keys() != keys):
        raise ValueError(f"its {place} is not as it should be")


def _list(found: Any, place: str, *, most: int | None = None) -> list[Any]:
    if not isinstance(found, list) or (most is not None and len(found) > most):
        raise ValueError(f"its {place} is not as it should be")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key of its manifest stands there twice")
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits:.20} is no finite number")
    return value
