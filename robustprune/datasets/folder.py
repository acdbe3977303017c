"""Images that are read from their files when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import (  # type: ignore[attr-defined]  # no __all__ there
    CenterCrop,
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from torchvision.transforms.v2.functional import pil_to_tensor  # type: ignore[attr-defined]

from robustprune.datasets.decode import decode
from robustprune.datasets.source import Source, fingerprint
from robustprune.errors import UsageError
from robustprune.seeding import derive
from robustprune.types import Images

if TYPE_CHECKING:
    from PIL.Image import Image

_READ = 500  # files whose content a digest is of


def listing(folder: Path) -> tuple[list[str], Tensor, list[str]]:
    """Paths, labels and class names below ``folder``, in a fixed order that mixes the classes.

    Raises:
        UsageError: no class folders, or one without images.
    """
    try:
        found = datasets.ImageFolder(str(folder))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{folder}: {error}") from None
    generator = torch.Generator().manual_seed(derive(0, "imagefolder"))
    order = torch.randperm(len(found.samples), generator=generator).tolist()
    paths = [found.samples[index][0] for index in order]
    labels = torch.tensor([found.samples[index][1] for index in order])
    return paths, labels, list(found.classes)


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
        pixels: Tensor = pil_to_tensor(self._cut(image, seed))
        return pixels

    def _cut(self, image: Image, seed: int | None) -> Image:
        if seed is None:
            plain: Image = self._plain(image)
            return plain
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            random: Image = self._random(image)
        return random
