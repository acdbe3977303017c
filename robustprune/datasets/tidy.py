"""Failed downloads leave no empty folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def tidied(root: Path) -> Iterator[None]:
    """If what is inside raises, remove the empty folders that it made for ``root``.

    Those are ``root`` itself, the folders around it, and those up to two deep in it: torchvision's
    deepest is ``MNIST/raw``. Files stay, and so does every folder that was there before.

    Args:
        root: absolute.
    """
    before = set(_folders(root))
    try:
        yield
    except BaseException:
        for folder in _folders(root):
            if folder not in before:
                with suppress(OSError):  # not empty
                    folder.rmdir()
        raise


def _folders(root: Path) -> list[Path]:
    """The folders in and around ``root`` that exist, deepest first."""
    places = [*root.glob("*/*"), *root.glob("*"), root, *root.parents]
    return [place for place in places if place.is_dir()]
