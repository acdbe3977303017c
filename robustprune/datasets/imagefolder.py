"""Large images in folders, one per class: ImageNet's layout. They are read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from robustprune.datasets import register
from robustprune.datasets.base import Dataset, few, other_classes
from robustprune.datasets.decode import MOST_PIXELS, decode
from robustprune.datasets.files import check_names, class_folders, missing, read_names
from robustprune.datasets.source import Source, fingerprint
from robustprune.errors import UsageError
from robustprune.paths import told
from robustprune.seeding import derive
from robustprune.types import Images

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of images, as torchvision's image folders have them."""
_READ = 500  # files whose content a digest is of


@register("imagefolder")
class ImageFolder(Dataset):
    """Folders ``train/<class>/`` and ``val/<class>/`` of RGB images, as ImageNet has them.

    Training: a random crop (area 8 to 100 %, aspect 3/4 to 4/3) resized to `size`, mirrored at
    random. Test and validation: shorter side to `resize`, then the central `size`. Their order is
    a fixed permutation of the sorted paths, because evaluators take the first images.
    """

    channels: ClassVar[int] = 3

    classes: int | list[str] | Path | None = None
    """Names of the classes in the order of their labels: a list, or a file with one per line.
    Folders may be missing then. A number only says how many folders there must be; left out, the
    folders in train/ (or in val/ without it) are the classes, in alphabetical order."""
    size: int = Field(224, gt=0)
    """Height and width of an image as the network gets it."""
    resize: int = Field(256, gt=0)
    """Shorter side of a test image before its centre is cut out; at least `size`."""
    workers: int = Field(4, ge=0)
    """Processes that read images. Their number does not change what is read."""

    @model_validator(mode="after")
    def _check_sizes(self) -> ImageFolder:
        if self.resize < self.size:
            raise ValueError(f"'resize' ({self.resize}) must be at least 'size' ({self.size})")
        return self

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: Any) -> Any:
        if isinstance(classes, int) and classes < 2:
            raise ValueError(f"expected at least 2 classes; got {classes}")
        if isinstance(classes, list):
            check_names(classes)
        return classes

    @property
    def num_classes(self) -> int:
        """The number that `classes` is or has, or that of the folders."""
        return self.classes if isinstance(self.classes, int) else len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in `classes`, or those of the folders."""
        if isinstance(self.classes, Path):
            return read_names(self.classes)
        if isinstance(self.classes, list):
            return tuple(self.classes)
        folder = self._find("train", "val")
        names = tuple(class_folders(folder))
        if self.classes not in (None, len(names)):
            raise UsageError(
                f"{folder}: {len(names)} classes (folders) found, {self.classes} expected. "
                f"Set 'classes: {len(names)}' if the folder is right."
            )
        return names

    def for_network(self, classes: Sequence[str]) -> Self:
        """Return the same images, labelled by the places of their folders' names in ``classes``.

        As many other names that were given as `classes` stand for the network's in its order.
        """
        own = self.class_names
        if set(own) <= set(classes):
            check_names(classes)
            return self.model_copy(update={"classes": list(classes)})
        named = isinstance(self.classes, list | Path) and len(own) == len(classes)
        if named and not set(own) & set(classes):
            return self
        raise other_classes(self, classes)

    @property
    def image_size(self) -> int:
        """The option `size`."""
        return self.size

    def open(self, *, train: bool) -> FolderSource:
        """Return all training or test images, none of them read yet; see `Dataset.open`."""
        folder, names = self._find("train" if train else "val"), self.class_names
        samples: list[tuple[str, int]] = []
        for name in self._checked_folders(folder, names):
            files = image_files(folder / name)
            if not files:
                raise UsageError(f"{folder / name}: no images in it ({', '.join(_SUFFIXES)}).")
            samples += [(file, names.index(name)) for file in files]
        generator = torch.Generator().manual_seed(derive(0, "imagefolder"))
        order = torch.randperm(len(samples), generator=generator).tolist()
        paths, targets = zip(*(samples[index] for index in order), strict=True)
        augment = train and self.augment
        return FolderSource(
            list(paths), torch.tensor(targets), self.size, self.resize, augment, self.workers
        )

    def _checked_folders(self, folder: Path, names: Sequence[str]) -> list[str]:
        """Name the folders in a split, once it is sure to mean the same by a label as the other."""
        found = class_folders(folder)
        given = isinstance(self.classes, list | Path)
        faults = {
            "not among them": [name for name in found if name not in names],
            "missing": [] if given else [name for name in names if name not in found],
        }
        words = ", ".join(f"{few(which)} {fault}" for fault, which in faults.items() if which)
        if words:
            known = "data.classes" if given else f"those of {self._find('train', 'val')}"
            raise UsageError(
                f"{folder}: its classes (folders) are not {known}: {words}. Give both splits the "
                "same folders, or name all classes: data.classes."
            )
        return found

    def _find(self, *splits: str) -> Path:
        """Return the folder of the first of some splits that is there."""
        candidates = [place / split for split in splits for place in self._places()]
        for place in candidates:
            if place.is_dir():
                return place
        remedy = (
            "Set 'root:' to a folder that holds train/ and val/, each with one folder of images "
            "per class. ImageNet itself must be asked for at image-net.org."
        )
        raise missing(f"dataset 'imagefolder': {splits[-1]}/ was", "a folder", candidates, remedy)


def image_files(folder: Path) -> list[str]:
    """Return the sorted paths of the images below a folder, none twice: links may go in circles."""
    entered = {os.path.realpath(path) for path in folder.absolute().parents}
    found = []
    for root, below, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        below[:] = sorted(below) if place not in entered else []
        if place not in entered:
            found += [(root, file) for file in files if file.lower().endswith(_SUFFIXES)]
        entered.add(place)
    return [os.path.join(*pair) for pair in sorted(found)]


@dataclass(frozen=True, eq=False)
class FolderSource(Source):
    """Image files, with options of `ImageFolder`; each is augmented as its own draw says."""

    paths: list[str]
    labels: Tensor
    """``(n,)``, int64."""
    size: int
    resize: int
    augment: bool
    workers: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """Return the images at ``indices``, uint8; see `Source.read`."""
        seeds = [None] * len(indices)
        if draws is not None and self.augment:
            seeds = draws[:, 0].tolist()
        images = [self._image(i, s) for i, s in zip(indices.tolist(), seeds, strict=True)]
        return Images(torch.stack(images), self.labels[indices])

    def select(self, indices: Tensor, *, augment: bool = True) -> FolderSource:
        """Return a source of some of the files; see `Source.select`."""
        paths = [self.paths[index] for index in indices.tolist()]
        augment = augment and self.augment
        return replace(self, paths=paths, labels=self.labels[indices], augment=augment)

    def digest(self) -> str:
        """Return a digest of the files' names, folders and labels, and of the content of some.

        Reading all of ImageNet's files would take minutes: some 500, evenly spread, stand for all.
        """
        some = self.paths[:: max(1, len(self.paths) // _READ)]
        with told("cannot read the images", "Fetch them again."):
            content = [Path(path).read_bytes() for path in some]
        names = "\n".join("/".join(Path(path).parts[-3:]) for path in self.paths)
        form = f"{self.size} {self.resize}\n{names}"
        return fingerprint(form.encode(), self.labels, *content)

    def _image(self, index: int, seed: int | None) -> Tensor:
        v2: Any = import_module("torchvision.transforms.v2")  # a second, for which no check waits
        path = self.paths[index]
        image: Image = decode(Path(path), mode="RGB", where=path)
        if seed is None:
            short, long = sorted(image.size)
            if long / short * self.resize**2 > MOST_PIXELS:
                raise UsageError(
                    f"{path}: an image of {image.height}×{image.width} is too narrow to be resized "
                    f"to {self.resize} on its shorter side. Cut it."
                )
            image = v2.CenterCrop(self.size)(v2.Resize(self.resize)(image))
        else:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                torch.manual_seed(seed)
                image = v2.RandomHorizontalFlip()(v2.RandomResizedCrop(self.size)(image))
        pixels: Tensor = v2.functional.pil_to_tensor(image)
        return pixels
