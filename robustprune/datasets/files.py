"""Datasets of small images that are read from files into memory."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustprune.datasets.base import Dataset
from robustprune.datasets.locate import missing, places
from robustprune.datasets.tidy import tidied
from robustprune.errors import UsageError

if TYPE_CHECKING:
    from robustprune.datasets.source import TensorSource
    from robustprune.types import Images


class FileDataset(Dataset):
    """A dataset in the Hugging Face hub's parquet layout, or in torchvision's own files."""

    padding: ClassVar[int] = 0
    """Zeros around a training image before it is cropped back; 0 for no crop."""
    flip: ClassVar[bool] = False
    """Whether a mirrored image is still of its class."""
    hub_name: ClassVar[str]
    """What the Hugging Face hub calls the dataset, for the message that says how to get it."""

    download: bool = True
    """Whether torchvision may download the files if they are not found; `check` would, too."""

    @abstractmethod
    def marker(self, *, train: bool) -> str:
        """The file or folder in the root that shows that torchvision's files are there."""

    @abstractmethod
    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """The torchvision dataset. What it raises becomes a `UsageError`."""

    def open(self, *, train: bool) -> TensorSource:
        """All training or test images, in memory as uint8; see `Dataset.open`."""
        from robustprune.datasets.augment import CropFlip
        from robustprune.datasets.source import TensorSource

        augments = train and self.augment and (self.padding or self.flip)
        augment = CropFlip(padding=self.padding, flip=self.flip) if augments else None
        return TensorSource(*self._read(train), augment)

    def _read(self, train: bool) -> Images:
        from robustprune.datasets import hub

        split = "train" if train else "test"
        candidates = places(self.root or Path("data", self.registered_name), self.registered_name)
        for place in candidates:
            shards = hub.shards(place, split)
            if shards:
                hub.check_names(shards, self.class_names)
                return hub.read(shards, **self._expected())
            if (place / self.marker(train=train)).exists():
                return self._from_torchvision(place, train)
        reason = "With 'download: true', torchvision would fetch its own."
        if self.download:
            try:
                with tidied(candidates[-1]):
                    return self._from_torchvision(candidates[-1], train)
            except UsageError as error:
                reason = str(error)
        raise missing(
            f"dataset '{self.registered_name}': the {split}ing images were",
            f"{split}-*.parquet or {self.marker(train=train)}",
            candidates,
            f"Put the parquet files of '{self.hub_name}' from the Hugging Face hub there, or "
            f"torchvision's files for {type(self).__name__}, or set 'root:'.\n{reason}",
        )

    def _from_torchvision(self, root: Path, train: bool) -> Images:
        from robustprune.datasets.tensors import checked

        file = root / self.marker(train=train)
        try:
            dataset = self.torchvision(root, train=train, download=self.download)
        except Exception as error:  # network, archive, pickle and file errors of many types
            what = f"{file} cannot be read" if file.exists() else "torchvision's download failed"
            raise UsageError(f"dataset '{self.registered_name}': {what} ({error}).") from error
        labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
        return checked(dataset.data, labels, **self._expected(), where=str(file))

    def _expected(self) -> dict[str, int]:
        return {
            "channels": self.channels,
            "size": self.image_size,
            "num_classes": self.num_classes,
        }
