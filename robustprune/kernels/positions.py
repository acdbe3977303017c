"""Positions of the weights that are kept, in few bytes.

n weights of which k are kept have log2(n choose k), or about n·H(k/n), bits of positions. A mask of
few kept weights is written as the gaps between them, independent draws that an entropy coder such
as zstd's brings to that bound within a few percent. A mask of many is written as bits.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

WORTHWHILE = 0.9
"""Share of weights that are kept, up to which positions are written."""

_ESCAPE = 255
_SPARSE = 0.25  # density up to which gaps are shorter than bits once both are compressed

Coding = Literal["gaps", "bits"]
Bytes = NDArray[np.uint8]


def encode(mask: NDArray[np.bool_]) -> tuple[Coding, Bytes]:
    """A mask, ``(n,)``, as bytes, and which of PACKED.md's codings they are."""
    if np.count_nonzero(mask) > _SPARSE * mask.size:
        return "bits", np.packbits(mask)
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    ends = np.cumsum(gaps // _ESCAPE + 1)  # behind each gap's last byte
    coded = np.full(ends[-1] if ends.size else 0, _ESCAPE, dtype=np.uint8)
    coded[ends - 1] = gaps % _ESCAPE
    return "gaps", coded


def decode(coding: Coding, coded: Bytes, size: int) -> NDArray[np.bool_]:
    """The mask of ``size`` weights that `encode` wrote.

    Raises:
        ValueError: the bytes are no mask of that size.
    """
    if coding == "bits":
        if coded.size != -(-size // 8):
            raise ValueError(f"{coded.size} bytes of bits for {size} weights")
        return np.unpackbits(coded, count=size).astype(bool)
    if coded.size and coded[-1] == _ESCAPE:
        raise ValueError("the last gap has no end")
    last = coded != _ESCAPE
    places = np.cumsum(coded, dtype=np.int64)[last] + np.arange(np.count_nonzero(last))
    mask = np.zeros(size, dtype=bool)
    if places.size and places[-1] >= size:
        raise ValueError(f"a weight is kept at {places[-1]} of {size}")
    mask[places] = True
    return mask


def longest(coding: Coding | None, size: int, kept: int) -> int:
    """Bytes that the positions of so many kept ones of ``size`` weights can take."""
    return {None: 0, "bits": -(-size // 8), "gaps": kept + size // _ESCAPE}[coding]
