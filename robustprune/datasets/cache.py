"""Decoded images kept between runs, because decoding 60,000 of them takes seconds.

They lie in $ROBUSTPRUNE_CACHE, ~/.cache/robustprune if that is not set; if it is empty, nothing is
kept. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from robustprune.types import Images

VARIABLE = "ROBUSTPRUNE_CACHE"
"""The environment variable that names the folder."""

WORTHWHILE = 5_000
"""Fewer images than this are decoded faster than anyone notices."""


def cached(files: Sequence[Path], options: object, decode: Callable[[], Images]) -> Images:
    """``decode()``, or what it gave before for the same files and options.

    Args:
        files: what is decoded; known again by path, size and time of change.
        options: whatever else the result depends on; its ``repr`` tells it.
        decode: returns uint8 images and int64 labels.
    """
    place = _place(files, options)
    found = _read(place) if place is not None else None
    if found is not None:
        return found
    images = decode()
    if place is not None and len(images.labels) >= WORTHWHILE:
        with suppress(OSError):  # a full or read-only disk costs time, not the run
            _write(place, images)
    return images


def _place(files: Sequence[Path], options: object) -> Path | None:
    folder = os.environ.get(VARIABLE, "~/.cache/robustprune")
    if not folder:
        return None
    known = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([known, repr(options)]).encode()).hexdigest()[:32]
    return Path(os.path.expanduser(folder)) / "images" / f"{key}.safetensors"


def _read(place: Path) -> Images | None:
    """What is kept at ``place``; None if that is nothing, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place, framework="pt") as file:
            checksum = (file.metadata() or {}).get("crc32")
            images = Images(file.get_tensor("images"), file.get_tensor("labels"))
    except (OSError, SafetensorError):
        return None
    return images if checksum == _checksum(images) else None


def _write(place: Path, images: Images) -> None:
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(images._asdict(), name, metadata={"crc32": _checksum(images)})
        os.replace(name, place)  # a reader sees all of it, or nothing
    finally:
        Path(name).unlink(missing_ok=True)


def _checksum(images: Images) -> str:
    pixels = zlib.crc32(images.images.numpy().data)
    return str(zlib.crc32(images.labels.numpy().data, pixels))
