"""Encoded images to pixels of eight bits, by pillow."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from robustprune.errors import UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF", "JPEG2000")
"""Formats that are read; pillow knows more, one of which runs another program (EPS)."""

MOST_PIXELS = 89_478_485
"""Pixels of one image at which pillow warns: 0.36 GB once it is decoded."""


def decode(
    source: Path | BytesIO, *, mode: str, where: str, size: int | None = None
) -> Image.Image:
    """Return a PNG, JPEG or other image with eight bits a channel. Nothing is cut off or guessed.

    Args:
        source: the file, or what was in it.
        mode: ``"RGB"`` or ``"L"`` (grey); other images are converted.
        where: the file, for the message.
        size: the height and width there must be; None for any.

    Raises:
        UsageError: the image is damaged, truncated, of another size or too large, is transparent
            in places, or has numbers for pixels whose range is not known.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is an error below
            image = Image.open(source, formats=FORMATS)  # which decodes no pixel yet
        with image:
            if size is not None and image.size != (size, size):
                found = f"{image.height}×{image.width}"
                raise UsageError(f"{where}: expected an image of {size}×{size}, found {found}.")
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return _eight_bits(image, where).convert(mode)
    except UsageError:
        raise
    except Image.DecompressionBombError:
        message = f"{where}: an image of more than {MOST_PIXELS:,} pixels. Make it smaller."
        raise UsageError(message) from None
    except Exception as error:  # pillow's readers raise almost anything for damaged files
        raise UsageError(f"{where}: the image is damaged ({error}). Fetch it again.") from None


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Return the image with eight bits a channel, opaque; it is refused where that is a guess."""
    if image.mode[0] == "I" and image.format in ("PNG", "PPM", "JPEG2000"):  # white is 65535 there
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((deep * 255 + 2**15 - 1) // (2**16 - 1)).astype(np.uint8))
    if image.mode[0] in "IF" or image.mode == "LAB":
        raise UsageError(
            f"{where}: cannot tell which of its values are black and white (pillow's mode "
            f"'{image.mode}'). Save it with 8 bits a channel, in RGB or grey."
        )
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    if colours.getchannel("A").getextrema()[0] != 255:
        raise UsageError(
            f"{where}: the image is transparent in places, and what is seen there depends on what "
            "is behind it. Put it on a background, and save it as RGB."
        )
    return colours.convert("RGB")
