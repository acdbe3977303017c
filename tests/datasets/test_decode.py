"""Pixels of every kind that pillow knows: right, or refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustprune.datasets import decode as module
from robustprune.datasets.decode import decode
from robustprune.errors import UsageError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = RAMP.astype(np.uint16) * 257
"""The same ramp in 16 bits, where 255 is 65535."""


def encoded(image: Image.Image, form: str, **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    stream.seek(0)
    return stream


def read(stream: io.BytesIO, mode: str = "L") -> np.ndarray[Any, Any]:
    return np.asarray(decode(stream, mode=mode, where="x"))


def grey() -> Image.Image:
    return Image.fromarray(RAMP)


@pytest.mark.parametrize("form", ["PNG", "JPEG2000", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_grey_ramp_of_16_bits_is_scaled(form: str, mode: str) -> None:
    found = read(encoded(Image.fromarray(DEEP), form), mode)
    assert np.array_equal(found if mode == "L" else found[..., 1], RAMP)


def test_values_between_are_rounded() -> None:
    values = np.array([[0, 128, 129, 300, 32767, 65534, 65535]], np.uint16)
    found = read(encoded(Image.fromarray(values), "PNG"))
    assert found.tolist() == [[0, 0, 1, 1, 127, 255, 255]]


REFUSED = {
    "16 bits of TIFF, where white may be zero": (Image.fromarray(DEEP), "TIFF"),
    "32 bits": (Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    "float": (Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    "LAB": (Image.merge("LAB", [Image.fromarray(RAMP)] * 3), "TIFF"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_numbers_whose_range_is_not_known_are_refused_and_not_clipped(kind: str) -> None:
    with pytest.raises(UsageError, match=r"which of its values are black and white.* 8 bits"):
        read(encoded(*REFUSED[kind]))


def test_bits_are_black_and_white() -> None:
    bits = Image.fromarray(RAMP > 127)
    assert bits.mode == "1"
    for form in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(read(encoded(bits, form)), (RAMP > 127) * np.uint8(255))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_eight_bits_keep_the_ramp(mode: str) -> None:
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    image = grey().convert("RGB" if mode in ("CMYK", "YCbCr", "RGBA") else "L")
    stream = encoded(image.convert(mode), form)
    for wanted in ("L", "RGB"):
        found = read(stream, wanted).astype(int)
        assert np.abs(found.reshape(16, 16, -1)[..., 0] - RAMP).max() <= 1
        stream.seek(0)


def transparent() -> dict[str, io.BytesIO]:
    half = Image.fromarray(np.full((16, 16), 128, np.uint8))
    colour = Image.merge("RGB", [grey()] * 3)
    with_alpha = Image.merge("RGBA", [grey()] * 3 + [half])
    return {
        "RGBA": encoded(with_alpha, "PNG"),
        "WebP": encoded(with_alpha, "WEBP", lossless=True),
        "a palette's colour": encoded(grey().convert("P"), "PNG", transparency=7),
        "a palette's alphas": encoded(
            grey().convert("P"), "PNG", transparency=bytes([255] * 9 + [3] * 247)
        ),
        "a colour": encoded(colour, "PNG", transparency=(9, 9, 9)),
        "GIF": encoded(grey(), "GIF", transparency=4),
    }


@pytest.mark.parametrize("kind", transparent())
def test_what_a_background_shines_through_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="transparent in places"):
        read(transparent()[kind])


def test_transparency_that_hides_nothing_is_dropped() -> None:
    absent = encoded(Image.merge("RGB", [grey()] * 3), "PNG", transparency=(1, 2, 3))
    opaque = encoded(grey().convert("P"), "PNG", transparency=bytes([255] * 256))
    for stream in (absent, opaque):
        assert np.array_equal(read(stream), RAMP)


def test_other_formats_are_not_even_begun() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(UsageError, match="damaged"):
        read(io.BytesIO(page))


def png(width: int, height: int) -> io.BytesIO:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("side", [(9500, 9500), (2**31 - 1, 1)])
def test_a_size_is_not_believed(side: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(UsageError, match=r"more than 89,478,485 pixels"):
        decode(png(*side), mode="RGB", where="x")
    with pytest.raises(UsageError, match=r"expected an image of 32×32|more than"):
        decode(png(*side), mode="RGB", where="x", size=32)


def test_the_limit_is_what_pillow_warns_of() -> None:
    assert module.MOST_PIXELS == Image.MAX_IMAGE_PIXELS
