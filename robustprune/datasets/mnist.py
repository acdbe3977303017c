"""MNIST (LeCun, Cortes, Burges 1998): handwritten digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from robustprune.datasets import register
from robustprune.datasets.files import FileDataset


@register("mnist")
class MNIST(FileDataset):
    """MNIST: 60,000 training and 10,000 test images, grey, 28×28, 10 digits. Not augmented."""

    num_classes: ClassVar[int] = 10
    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 28
    class_names: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))
    hub_name: ClassVar[str] = "ylecun/mnist"

    def marker(self, *, train: bool) -> str:
        """The torchvision file."""
        return f"MNIST/raw/{'train' if train else 't10k'}-images-idx3-ubyte"

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """The torchvision dataset."""
        from torchvision import datasets

        return datasets.MNIST(root, train=train, download=download)
