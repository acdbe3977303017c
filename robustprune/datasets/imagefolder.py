"""Large images in folders, one a class: ImageNet's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from robustprune.datasets import register
from robustprune.datasets.base import Dataset
from robustprune.datasets.locate import missing, places
from robustprune.errors import UsageError

if TYPE_CHECKING:
    from robustprune.datasets.folder import FolderSource


@register("imagefolder")
class ImageFolder(Dataset):
    """Folders ``train/<class>/`` and ``val/<class>/`` of RGB images, as ImageNet has them.

    Training: a random crop (area 8 to 100 %, aspect 3/4 to 4/3) resized to `size`, mirrored at
    random. Test and validation: shorter side to `resize`, then the central `size`. Images are read
    when they are needed. Their order is a fixed permutation of the sorted paths, because evaluators
    take the first images, which would all be of the first classes.
    """

    channels: ClassVar[int] = 3

    classes: int = Field(1000, gt=1)
    """The number of classes, that is of folders in train/ and in val/."""
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

    @property
    def num_classes(self) -> int:
        """The option `classes`."""
        return self.classes

    @property
    def image_size(self) -> int:
        """The option `size`."""
        return self.size

    def open(self, *, train: bool) -> FolderSource:
        """All training or test images, none of them read yet; see `Dataset.open`."""
        from robustprune.datasets.folder import FolderSource, listing

        folder = self._find("train" if train else "val")
        paths, labels, names = listing(folder)
        if len(names) != self.classes:
            raise UsageError(
                f"{folder}: {len(names)} classes (folders) found, {self.classes} expected. "
                f"Set 'classes: {len(names)}' if the folder is right."
            )
        return FolderSource(
            paths,
            labels,
            size=self.size,
            resize=self.resize,
            augment=train and self.augment,
            workers=self.workers,
        )

    def _find(self, split: str) -> Path:
        root = self.root or Path("data", self.registered_name)
        candidates = [place / split for place in places(root, self.registered_name)]
        for place in candidates:
            if place.is_dir():
                return place
        remedy = (
            "Set 'root:' to a folder that holds train/ and val/, each with one folder of images a "
            "class. ImageNet itself must be asked for at image-net.org."
        )
        raise missing(f"dataset 'imagefolder': {split}/ was", "a folder", candidates, remedy)
