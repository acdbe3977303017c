"""One tensor, packed: where it is not zero, and its values there, byte plane by byte plane."""

from __future__ import annotations

import math
import zlib
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from robustprune.artifacts.positions import Coding, decode, encode, longest_code

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

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_EMPTY = torch.empty(0)
_WORTHWHILE = 0.9  # the share of entries that are not zero, up to which positions are written

Bytes = NDArray[np.uint8]
Size = Annotated[int, Field(strict=True, ge=0)]


class PackError(ValueError):
    """A tensor cannot be packed, or what should be a packed one is not."""


class Entry(BaseModel):
    """What a packed file's manifest says of one tensor.

    Attributes:
        name: in the state dict.
        dtype: a key of `DTYPES`.
        shape: its shape.
        stored: the type its values are written in, ``dtype`` or ``F16``.
        coding: how positions are written, see `robustprune.artifacts.positions`; None for none.
        mask: whether they are a mask; otherwise just where the entries are not zero.
        count: number of values.
        position_bytes: how many bytes its positions take before compression.
        crc32: of the mask's bits, if it has one, and of the tensor's bytes, little-endian and in
            row-major order.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: Annotated[tuple[Size, ...], Field(strict=False)]
    stored: str
    coding: Coding | None
    mask: bool
    count: Size
    position_bytes: Size
    crc32: Size

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the tensor itself."""
        return DTYPES[self.dtype]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def value_bytes(self) -> int:
        """How many bytes its values take before compression."""
        return self.count * DTYPES[self.stored].itemsize

    def document(self) -> dict[str, Any]:
        """As JSON; what is usual is left out."""
        usual = {"stored": self.dtype, "coding": None, "mask": False, "position_bytes": 0}
        usual["count"] = self.size
        document = self.model_dump(mode="json")
        return {key: value for key, value in document.items() if usual.get(key, ...) != value}

    @classmethod
    def read(cls, document: Any) -> Entry:
        """From JSON that anybody may have written.

        Raises:
            PackError: it describes no tensor.
        """
        try:
            usual = {"stored": document["dtype"], "coding": None, "mask": False}
            usual |= {"position_bytes": 0, "count": math.prod(document["shape"])}
            entry = cls.model_validate({**usual, **document})
        except (KeyError, TypeError, ValidationError) as error:
            reason = str(error).partition("\n")[0]
            raise PackError(f"its manifest does not describe a tensor ({reason})") from None
        if not entry._agrees():
            raise PackError(f"its manifest describes no tensor: {document}")
        return entry

    def _agrees(self) -> bool:
        """Whether its numbers can be those of one tensor; nothing is made room for that cannot."""
        if not {self.dtype, self.stored} <= DTYPES.keys():
            return False
        if self.coding is None:
            return self.count == self.size and not self.mask and not self.position_bytes
        longest = longest_code(self.coding, count=self.count, size=self.size)
        return self.count <= self.size and self.position_bytes <= longest


def pack_tensor(
    name: str, tensor: Tensor, mask: Tensor | None, *, half: bool = False
) -> tuple[Entry, bytes, bytes]:
    """A tensor's entry in the manifest, its positions and its values.

    Args:
        name: in the state dict.
        tensor: of any shape and layout.
        mask: boolean, the tensor's shape; or None.
        half: write values in half precision.

    Raises:
        PackError: it is of a type that cannot be written, or a value is too large.
    """
    if tensor.dtype not in _NAMES:
        raise PackError(f"{name} is of type {tensor.dtype}, which cannot be packed.")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if half:
        flat = _halved(name, flat)
    raw = _bytes(flat)
    where = _where(raw, mask)
    kept = raw if where is None else raw[where]
    coding, coded = (None, np.empty(0, np.uint8)) if where is None else encode(where)
    seen = flat if where is None else torch.zeros_like(flat)
    if where is not None:
        seen[torch.from_numpy(where)] = flat[torch.from_numpy(where)]
    entry = Entry(
        name=name,
        dtype=_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        stored=_NAMES[flat.dtype],
        coding=coding,
        mask=mask is not None,
        count=len(kept),
        position_bytes=coded.size,
        crc32=_checksum(seen.to(tensor.dtype), where if mask is not None else None),
    )
    return entry, coded.tobytes(), kept.T.tobytes()  # planes: the first bytes of all values, …


def unpack_tensor(entry: Entry, positions: Bytes, values: Bytes) -> tuple[Tensor, Tensor | None]:
    """The tensor, and its mask if it has one; see `pack_tensor`.

    Raises:
        PackError: they are not what the entry's checksum was made of.
    """
    stored = DTYPES[entry.stored]
    rows = values.reshape(stored.itemsize, entry.count).T
    raw, where = rows, None
    if entry.coding is not None:
        try:
            where = decode(entry.coding, positions, entry.size)
            raw = np.zeros((entry.size, stored.itemsize), np.uint8)
            raw[where] = rows
        except ValueError as error:
            raise PackError(f"{entry.name}: {error}") from None
    flat = torch.frombuffer(bytearray(raw.tobytes()), dtype=stored) if entry.size else _EMPTY
    flat = flat.to(entry.torch_dtype)
    mask = where if entry.mask else None
    if _checksum(flat, mask) != entry.crc32:
        raise PackError(f"{entry.name} does not have the checksum that was noted")
    shaped = flat.reshape(entry.shape)
    return shaped, None if mask is None else torch.from_numpy(mask).reshape(entry.shape)


def _where(raw: Bytes, mask: Tensor | None) -> NDArray[np.bool_] | None:
    """Which entries are written; None for all of them."""
    if mask is not None:
        found: NDArray[np.bool_] = mask.cpu().contiguous().reshape(-1).numpy()
        return found
    filled = np.asarray(raw.any(axis=1))
    return filled if np.count_nonzero(filled) <= _WORTHWHILE * len(filled) else None


def _halved(name: str, flat: Tensor) -> Tensor:
    halved = flat.to(torch.float16)
    if bool((halved.isinf() & flat.isfinite()).any()):
        raise PackError(
            f"{name} has a weight of {float(flat.abs().max()):.3g}, beyond the 65,504 of half "
            "precision. Keep fp32 values."
        )
    return halved


def _bytes(flat: Tensor) -> Bytes:
    """``(entries, bytes of each)``, little-endian."""
    return flat.view(torch.uint8).numpy().reshape(flat.numel(), flat.dtype.itemsize)


def _checksum(flat: Tensor, mask: NDArray[np.bool_] | None) -> int:
    start = zlib.crc32(np.packbits(mask).tobytes()) if mask is not None else 0
    return zlib.crc32(_bytes(flat).tobytes(), start)
