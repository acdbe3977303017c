"""Images that are read from their files when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import (  # type: ignore[attr-defined]  # no __all__ there
    CenterCrop,
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from torchvision.transforms.v2.functional import pil_to_tensor  # type: ignore[attr-defined]

from robustprune.datasets.classes import class_folders
from robustprune.datasets.decode import MOST_PIXELS, decode
from robustprune.datasets.source import Source, fingerprint
from robustprune.errors import UsageError
from robustprune.seeding import derive
from robustprune.types import Images

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = tuple(IMG_EXTENSIONS)
_READ = 500  # files whose content a digest is of


def listing(folder: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """Paths and labels below ``folder``, in a fixed order that mixes the classes.

    Args:
        folder: holds the class folders.
        classes: a folder's label is the place of its name in them.

    Raises:
        UsageError: a class folder is there and has no images.
    """
    samples: list[tuple[str, int]] = []
    for name in sorted(set(class_folders(folder)) & set(classes)):
        files = list(_images(folder / name))
        if not files:
            raise UsageError(f"{folder / name}: there are no images in it ({', '.join(_ENDINGS)}).")
        label = classes.index(name)
        samples += [(file, label) for file in files]
    generator = torch.Generator().manual_seed(derive(0, "imagefolder"))
    order = torch.randperm(len(samples), generator=generator).tolist()
    paths = [samples[index][0] for index in order]
    return paths, torch.tensor([samples[index][1] for index in order])


def _images(folder: Path) -> Iterator[str]:
    """The image files below a class folder, in torchvision's order; links may lead in circles."""
    for root, _, files in sorted(_walk(folder)):
        yield from (os.path.join(root, f) for f in sorted(files) if f.lower().endswith(_ENDINGS))


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    entered = set(map(os.path.realpath, folder.absolute().parents))
    for root, below, files in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(root))
        below[:] = [b for b in below if os.path.realpath(os.path.join(root, b)) not in entered]
        yield root, below, files


class FolderSource(Source):
    """Image files; each is cut out and mirrored as its own draw says, in whatever process.

    Args:
        paths: the files.
        labels: ``(n,)``, int64.
        size: height and width of what comes out.
        resize: shorter side of an unaugmented image before its centre is cut out.
        augment: whether `batches` cuts out and mirrors at random.
        workers: processes that read ahead.
    """

    def __init__(
        self,
        paths: list[str],
        labels: Tensor,
        *,
        size: int,
        resize: int,
        augment: bool,
        workers: int,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.size = size
        self.resize = resize
        self.augment = augment
        self.workers = workers
        self._random = Compose([RandomResizedCrop(size), RandomHorizontalFlip()])
        self._plain = Compose([Resize(resize), CenterCrop(size)])

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """The images at ``indices``, uint8; see `Source.read`."""
        labels = self.labels[indices]
        if not len(indices):
            return Images(torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), labels)
        seeds = (
            draws[:, 0].tolist() if draws is not None and self.augment else [None] * len(indices)
        )
        images = [self._image(i, s) for i, s in zip(indices.tolist(), seeds, strict=True)]
        return Images(torch.stack(images), labels)

    def select(self, indices: Tensor, *, augment: bool = True) -> FolderSource:
        """A source of some of the files; see `Source.select`."""
        return FolderSource(
            [self.paths[index] for index in indices.tolist()],
            self.labels[indices],
            size=self.size,
            resize=self.resize,
            augment=self.augment and augment,
            workers=self.workers,
        )

    def digest(self) -> str:
        """Of the files' names, folders and labels, and of what is in some; see `Source.digest`.

        Reading all of ImageNet's files would take minutes: some 500, evenly spread, stand for all.
        """
        some = self.paths[:: max(1, len(self.paths) // _READ)]
        try:
            content = [Path(path).read_bytes() for path in some]
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from None
        names = "\n".join("/".join(Path(path).parts[-3:]) for path in self.paths)
        form = f"{self.size} {self.resize}\n{names}"
        return fingerprint(form.encode(), self.labels, *content)

    def _image(self, index: int, seed: int | None) -> Tensor:
        path = self.paths[index]
        image = decode(Path(path), mode="RGB", where=path)
        pixels: Tensor = pil_to_tensor(self._cut(image, seed, path))
        return pixels

    def _cut(self, image: Image, seed: int | None, path: str) -> Image:
        if seed is None:
            short, long = sorted(image.size)
            if long / short * self.resize**2 > MOST_PIXELS:
                raise UsageError(
                    f"{path}: an image of {image.height}×{image.width} is too narrow: its shorter "
                    f"side would become {self.resize}, and the longer one as much larger. Cut it."
                )
            plain: Image = self._plain(image)
            return plain
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            random: Image = self._random(image)
        return random
