"""Encoded images to pixels of eight bits, by pillow."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustprune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF", "JPEG2000")
"""What is read; pillow knows more, one of which runs another program (EPS)."""

MOST_PIXELS = 89_478_485
"""Of one image: what pillow warns of, 0.36 GB once it is decoded."""

_SAFE = "Save it with 8 bits a channel, in RGB or grey."
_BITS, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1  # tags of TIFF


def decode(source: Path | BytesIO, *, mode: str, where: str, size: int | None = None) -> Image:
    """A PNG, JPEG or other image, whole, with eight bits a channel.

    Grey of 16 bits is scaled: what was white is white. Nothing is cut off or guessed.

    Args:
        source: the file, or what was in it.
        mode: ``"RGB"`` or ``"L"`` (grey); other images are converted.
        where: the file, for the message.
        size: the height and width there must be; None for any.

    Raises:
        UsageError: the image is damaged, truncated, of another size or too large, lets a background
            shine through, or has numbers for pixels whose range is not known.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            image = Image.open(source, formats=FORMATS)
        with image:
            _check_size(image.size, size, where)  # what it says, before a pixel is decoded
            return _eight_bits(image, where).convert(mode)
    except UsageError:
        raise
    except Image.DecompressionBombError:
        raise UsageError(_too_large(where)) from None
    except Exception as error:  # pillow's readers raise almost anything for damaged files
        raise UsageError(f"{where}: the image is damaged ({error}). Fetch it again.") from None


def _check_size(found: tuple[int, int], size: int | None, where: str) -> None:
    if size is not None and found != (size, size):
        raise UsageError(
            f"{where}: expected an image of {size}×{size}, found {found[1]}×{found[0]}."
        )
    if found[0] * found[1] > MOST_PIXELS:
        raise UsageError(_too_large(where))


def _too_large(where: str) -> str:
    return f"{where}: an image of more than {MOST_PIXELS:,} pixels. Make it smaller."


def _eight_bits(image: Image, where: str) -> Image:
    """The image in a mode that pillow converts to grey or RGB without loss of range."""
    if image.mode[0] == "I":
        return _scaled(image, where)
    if image.mode in ("F", "LAB"):
        raise UsageError(
            f"{where}: cannot tell which of its values are black and white (pillow's mode "
            f"'{image.mode}'). {_SAFE}"
        )
    return _opaque(image, where) if image.has_transparency_data else image


def _opaque(image: Image, where: str) -> Image:
    """Without its alpha channel, palette's or colour's transparency, if they hide nothing."""
    colours = image.convert("RGBA")
    low, _ = colours.getchannel("A").getextrema()
    if low != 255:
        raise UsageError(
            f"{where}: the image is transparent in places, and what is seen there depends on what "
            "is behind it. Put it on a background, and save it as RGB."
        )
    return colours.convert("RGB")


def _scaled(image: Image, where: str) -> Image:
    """Grey of up to 16 bits as grey of 8, rounded."""
    from PIL.Image import fromarray

    white = _white(image)
    values = np.asarray(image)
    if white is None or values.min() < 0 or values.max() > white:
        raise UsageError(
            f"{where}: cannot tell which of its numbers is white (pillow's mode '{image.mode}', "
            f"{values.min()} to {values.max()}). {_SAFE}"
        )
    scaled = (values.astype(np.uint32) * 255 + white // 2) // white
    return fromarray(scaled.astype(np.uint8))


def _white(image: Image) -> int | None:
    """The value of white in an image of whole numbers, if its file says so."""
    if image.format in ("PNG", "PPM", "JPEG2000"):  # pillow scales the latter two's
        return 2**16 - 1
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _BLACK_IS_ZERO:
        return int(2 ** tags.get(_BITS, (16,))[0] - 1)
    return None
