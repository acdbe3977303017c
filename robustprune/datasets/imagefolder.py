"""Large images in folders, one a class: ImageNet's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from robustprune.datasets import register
from robustprune.datasets.base import Dataset, few, other_classes
from robustprune.datasets.classes import check_names, class_folders, read_names
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

    classes: int | list[str] | Path | None = None
    """Names of the classes in the order of their labels: a list, or a file with one a line. Folders
    may be missing then. A number only says how many folders there must be; left out, the folders in
    train/ (or in val/ without it) are the classes, in alphabetical order."""
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
        """As many as `classes` says, or names, or as there are folders."""
        return self.classes if isinstance(self.classes, int) else len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that `classes` gives, or those of the folders."""
        if isinstance(self.classes, Path):
            return read_names(self.classes)
        if isinstance(self.classes, list):
            return tuple(self.classes)
        folder = self._classes_from()
        names = tuple(class_folders(folder))
        if self.classes not in (None, len(names)):
            raise UsageError(
                f"{folder}: {len(names)} classes (folders) found, {self.classes} expected. "
                f"Set 'classes: {len(names)}' if the folder is right."
            )
        return names

    def for_network(self, classes: Sequence[str]) -> Self:
        """The same images, labelled by the places of their folders' names in ``classes``.

        Names that are given as `classes` and that the network does not know are taken to be its own
        in its order, if there are as many. See `Dataset.for_network`.
        """
        own = self.class_names
        if set(own) <= set(classes):
            check_names(classes)
            return self.model_copy(update={"classes": list(classes)})
        told = isinstance(self.classes, list | Path) and len(own) == len(classes)
        if told and not set(own) & set(classes):
            return self
        raise other_classes(self, classes)

    @property
    def image_size(self) -> int:
        """The option `size`."""
        return self.size

    def open(self, *, train: bool) -> FolderSource:
        """All training or test images, none of them read yet; see `Dataset.open`."""
        from robustprune.datasets.folder import FolderSource, listing

        folder = self._find("train" if train else "val")
        names = self.class_names
        self._check_folders(folder, names)
        paths, labels = listing(folder, names)
        return FolderSource(
            paths,
            labels,
            size=self.size,
            resize=self.resize,
            augment=train and self.augment,
            workers=self.workers,
        )

    def _check_folders(self, folder: Path, names: Sequence[str]) -> None:
        """Make sure that every split means the same by a label."""
        found = class_folders(folder)
        strange = [name for name in found if name not in names]
        given = isinstance(self.classes, list | Path)
        lacking = [] if given else [name for name in names if name not in found]
        if strange or lacking:
            known = "data.classes" if given else f"those of {self._classes_from()}"
            parts = [f"{few(strange)} not among them"] if strange else []
            parts += [f"{few(lacking)} missing"] if lacking else []
            raise UsageError(
                f"{folder}: its classes (folders) are not {known}: {', '.join(parts)}. Give both "
                "splits the same folders, or name all classes: data.classes."
            )

    def _classes_from(self) -> Path:
        """The folder of training images, or that of test images if there is no other."""
        try:
            return self._find("train")
        except UsageError:
            return self._find("val")

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
