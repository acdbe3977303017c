"""One tensor, packed: where it is not zero, and its values there, byte plane by byte plane."""

from __future__ import annotations

import math
import warnings
import zlib
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from robustprune.kernels.positions import (
    WORTHWHILE,
    Bytes,
    Coding,
    decode,
    encode,
    longest,
)

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of tensors, under safetensors' names."""

_FITTED = 100_000  # values that k-means looks at, at most

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

MOST_SHARED = 256
"""Values that a codebook holds at most: a code is a byte."""

Size = Annotated[int, Field(strict=True, ge=0)]


class PackError(ValueError):
    """A tensor cannot be packed, or what should be a packed one is not."""


class Entry(BaseModel):
    """A tensor's entry in a packed file's manifest, as PACKED.md describes it.

    Fields at their defaults are left out there; None of ``stored`` stands for ``dtype``, and of
    ``count`` for as many values as the tensor has entries.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: Annotated[tuple[Size, ...], Field(strict=False)]
    stored: str | None = None
    coding: Coding | None = None
    mask: bool = False
    count: Size | None = None
    position_bytes: Size = 0
    codebook: Annotated[int, Field(strict=True, ge=0, le=MOST_SHARED)] = 0
    crc32: Size

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def values(self) -> int:
        """Number of values."""
        return self.size if self.count is None else self.count

    @property
    def value_bytes(self) -> int:
        """Bytes that its values take before compression."""
        size = DTYPES[self.stored or self.dtype].itemsize
        return self.codebook * size + self.values if self.codebook else self.values * size

    @property
    def tensor_bytes(self) -> int:
        """Bytes that the tensor itself takes."""
        return self.size * DTYPES[self.dtype].itemsize

    @model_validator(mode="after")
    def _agree(self) -> Entry:
        """Make sure that its numbers can be one tensor's, before anything is made room for."""
        if not {self.dtype, self.stored or self.dtype} <= DTYPES.keys():
            raise ValueError("unknown type")
        most = longest(self.coding, self.size, self.values)
        if self.values > self.size or self.position_bytes > most:
            raise ValueError("more positions than entries")
        if self.coding is None and (self.mask or self.values < self.size):
            raise ValueError("values without positions")
        return self


def pack_tensor(
    name: str, tensor: Tensor, mask: Tensor | None, *, half: bool = False, codebook: int = 0
) -> tuple[Entry, bytes, bytes]:
    """A tensor's entry in the manifest, its positions and its values.

    Args:
        name: in the state dict.
        tensor: of any shape.
        mask: boolean, the tensor's shape; or None.
        half: write values in half precision; refused where one is too large.
        codebook: write so many shared values and their numbers instead; 0: each value itself.
    """
    if tensor.dtype not in _NAMES:
        raise PackError(f"{name} is of type {tensor.dtype}, which cannot be packed.")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if half:
        whole, flat = flat, flat.to(torch.float16)
        if bool((flat.isinf() & whole.isfinite()).any()):
            raise PackError(
                f"{name} has a weight of {float(whole.abs().max()):.3g}, beyond the 65,504 of half "
                "precision. Keep fp32 values."
            )
    raw = _bytes(flat)
    nonzero = torch.from_numpy(raw).bool().any(1)
    where = (nonzero if mask is None else mask.cpu().contiguous().reshape(-1)).numpy()
    coding, coded, kept = None, b"", raw
    if mask is not None or np.count_nonzero(where) <= WORTHWHILE * where.size:
        coding, positions = encode(where)
        coded, kept = positions.tobytes(), raw[where]
        flat = flat.masked_fill(torch.from_numpy(~where), 0)
    content, shared = kept.T.tobytes(), 0  # planes: the first bytes of all values, …
    if codebook and len(kept):
        whole = torch.from_numpy(where) if coding else torch.ones_like(flat, dtype=torch.bool)
        centres, codes = share(flat[whole], codebook)
        flat = flat.masked_scatter(whole, centres[codes.long()])
        content, shared = _bytes(centres).T.tobytes() + codes.numpy().tobytes(), len(centres)
    entry = Entry(
        name=name,
        dtype=_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        stored=_NAMES[flat.dtype] if flat.dtype != tensor.dtype else None,
        coding=coding,
        mask=mask is not None,
        count=len(kept) if len(kept) != len(raw) else None,
        position_bytes=len(coded),
        codebook=shared,
        crc32=_checksum(flat.to(tensor.dtype), where if mask is not None else None),
    )
    return entry, coded, content


def share(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most so many values in the place of ``values``, ``(n,)``, and the number of each one's.

    k-means from evenly spaced values, as in *Deep Compression* (Han et al. 2016, Sec. 3.2).

    Returns:
        Shared values, ascending, of the type of ``values``, and ``(n,)``, uint8.

    Raises:
        PackError: a value is not finite.
    """
    from sklearn.cluster import KMeans  # a second, which reading files need not wait for

    if not bool(values.isfinite().all()):
        raise PackError("a weight is infinite or no number, and shares no value with others.")
    few = values[:: -(-len(values) // _FITTED)]
    distinct = torch.from_numpy(np.unique(values.numpy()))
    if len(distinct) <= most:
        return distinct, torch.searchsorted(distinct, values).byte()
    start = np.linspace(float(values.min()), float(values.max()), most)[:, None]
    kmeans: Any = KMeans(most, init=start, n_init=1)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(action="ignore"):  # of fewer distinct values than were asked for
        kmeans.fit(few.double().numpy()[:, None])
    centres = torch.from_numpy(np.unique(kmeans.cluster_centers_)).to(values.dtype)
    between = (centres[1:] + centres[:-1]) / 2
    return centres, torch.searchsorted(between, values).byte()


def unpack_tensor(entry: Entry, positions: Bytes, values: Bytes) -> tuple[Tensor, Tensor | None]:
    """The tensor and its mask, if it has one; refused if the checksum is another."""
    stored = DTYPES[entry.stored or entry.dtype]
    raw, where = _values(entry, values, stored.itemsize), None
    if entry.coding is not None:
        try:
            where = decode(entry.coding, positions, entry.size)
            kept, raw = raw, np.zeros((entry.size, stored.itemsize), np.uint8)
            raw[where] = kept
        except ValueError as error:
            raise PackError(f"{entry.name}: {error}") from None
    flat = torch.from_numpy(raw.copy(order="C").reshape(-1)).view(stored).to(DTYPES[entry.dtype])
    mask = where if entry.mask else None
    if _checksum(flat, mask) != entry.crc32:
        raise PackError(f"{entry.name} does not have the checksum that was noted")
    shaped = flat.reshape(entry.shape)
    return shaped, None if mask is None else torch.from_numpy(mask).reshape(entry.shape)


def _values(entry: Entry, values: Bytes, size: int) -> Bytes:
    """``(values, bytes of each)``: as they stand in planes, or looked up in the codebook."""
    if not entry.codebook:
        return values.reshape(size, entry.values).T
    planes, codes = np.split(values, [entry.codebook * size])
    if codes.size and codes.max() >= entry.codebook:
        raise PackError(f"{entry.name}: a code is beyond its {entry.codebook} shared values")
    found: Bytes = planes.reshape(size, entry.codebook).T[codes]
    return found


def _bytes(flat: Tensor) -> Bytes:
    """``(entries, bytes of each)``, little-endian."""
    return flat.view(torch.uint8).numpy().reshape(flat.numel(), flat.dtype.itemsize)


def _checksum(flat: Tensor, mask: NDArray[np.bool_] | None) -> int:
    start = zlib.crc32(np.packbits(mask).tobytes()) if mask is not None else 0
    return zlib.crc32(_bytes(flat).tobytes(), start)
