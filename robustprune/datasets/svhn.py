"""SVHN (Netzer et al. 2011): house numbers seen from the street."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from robustprune.datasets import register
from robustprune.datasets.files import FileDataset


@register("svhn")
class SVHN(FileDataset):
    """SVHN, cropped digits: 73,257 training and 26,032 test images, RGB, 32×32, 10 digits.

    Training images are padded by 4 and cropped at random. They are not mirrored, because a
    mirrored digit is none (the reference implementation of HYDRA does mirror them).
    """

    num_classes: ClassVar[int] = 10
    channels: ClassVar[int] = 3
    image_size: ClassVar[int] = 32
    class_names: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))
    padding: ClassVar[int] = 4
    hub_name: ClassVar[str] = "ufldl-stanford/svhn"

    def marker(self, *, train: bool) -> str:
        """The torchvision file."""
        return "train_32x32.mat" if train else "test_32x32.mat"

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """The torchvision dataset; it makes the published label 10 the digit 0."""
        from torchvision import datasets

        return datasets.SVHN(root, split="train" if train else "test", download=download)
