"""Positions of kept weights as bytes, by hand and back."""

import math

import numpy as np
import pytest
import zstandard

from robustprune.kernels.positions import decode, encode


def mask_of(size: int, *kept: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[list(kept)] = True
    return mask


@pytest.mark.parametrize(
    ("size", "kept", "coded"),
    [
        (10, [0], [0]),
        (10, [9], [9]),
        (20, [2, 3, 9], [2, 0, 5]),
        (300, [254], [254]),
        (300, [255], [255, 0]),
        (2000, [1, 767, 1278], [1, 255, 255, 255, 0, 255, 255, 0]),
        (8, [], []),
    ],
)
def test_gaps_by_hand(size, kept, coded):
    coding, found = encode(mask_of(size, *kept))
    assert (coding, found.tolist()) == ("gaps", coded)


def test_bits_by_hand():
    coding, found = encode(mask_of(9, 0, 2, 8))
    assert (coding, found.tolist()) == ("bits", [0b1010_0000, 0b1000_0000])


@pytest.mark.parametrize("density", [0, 0.01, 0.25, 0.26, 1])
@pytest.mark.parametrize("size", [1, 8, 257, 10_000])
def test_masks_come_back(size, density):
    mask = np.random.default_rng(size).random(size) < density
    coding, coded = encode(mask)
    assert coded.dtype == np.uint8
    assert np.array_equal(decode(coding, coded, size), mask)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.005])
def test_compressed_positions_are_within_four_percent_of_the_entropy(density):
    size = 1_000_000
    mask = np.zeros(size, dtype=bool)
    mask[np.random.default_rng(0).permutation(size)[: round(density * size)]] = True
    rest = 1 - density
    bound = -size * (density * math.log2(density) + rest * math.log2(rest)) / 8
    _, coded = encode(mask)
    assert len(zstandard.compress(coded.tobytes())) < 1.04 * bound


@pytest.mark.parametrize(
    ("coding", "coded", "size", "message"),
    [
        ("bits", [1], 9, "1 bytes of bits for 9"),
        ("bits", [1, 2, 3], 9, "3 bytes of bits for 9"),
        ("gaps", [3, 255], 900, "no end"),
        ("gaps", [4, 5], 10, "kept at 10 of 10"),
        ("gaps", [0], 0, "kept at 0 of 0"),
    ],
)
def test_bytes_that_are_no_mask_are_refused(coding, coded, size, message):
    with pytest.raises(ValueError, match=message):
        decode(coding, np.array(coded, dtype=np.uint8), size)
