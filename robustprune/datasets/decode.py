"""Encoded images to pixels, by pillow."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(source: Path | BytesIO, *, mode: str, where: str, size: int | None = None) -> Image:
    """A PNG, JPEG or other image, whole.

    Args:
        source: the file, or what was in it.
        mode: ``"RGB"`` or ``"L"`` (grey); other images are converted.
        where: the file, for the message.
        size: the height and width there must be; None for any.

    Raises:
        UsageError: the image is damaged, truncated or of another size.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            found = image.size
            right = size is None or found == (size, size)
            pixels = image.convert(mode) if right else image
    except Exception as error:  # pillow's readers raise almost anything for damaged files
        raise UsageError(f"{where}: the image is damaged ({error}). Fetch it again.") from None
    if not right:
        raise UsageError(
            f"{where}: expected an image of {size}×{size}, found {found[1]}×{found[0]}."
        )
    return pixels
