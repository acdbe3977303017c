"""Datasets of small images that are held in memory: CIFAR, SVHN, MNIST, scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from robustprune.datasets import register
from robustprune.datasets.base import Dataset
from robustprune.datasets.files import checked, missing
from robustprune.datasets.source import TensorSource
from robustprune.errors import UsageError
from robustprune.types import Images

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class CropFlip:
    """The usual augmentation of 32×32 images: a random crop of the padded image, and a flip."""

    padding: int = 4
    """Black pixels added on each side before the crop; 0 for no crop."""
    flip: bool = True
    """Mirror each image, left to right, with probability one half."""

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return ``images``, ``(n, c, h, w)``, augmented.

        The ``draws``, ``(n, 3)`` integers ≥ 0, decide the crop's row, its column, and the flip.
        """
        if self.padding:
            rows, columns = (draws[:, :2] % (2 * self.padding + 1)).T
            height, width = images.shape[2:]
            padded = F.pad(images, [self.padding] * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(len(images)), :, rows, columns]
        if self.flip:
            mirrored = (draws[:, 2] % 2).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images


class SmallImages(Dataset):
    """A dataset in the Hugging Face hub's parquet layout, or in torchvision's own files."""

    channels: ClassVar[int] = 3
    image_size: ClassVar[int] = 32
    class_names: ClassVar[tuple[str, ...]] = DIGITS
    augmentation: ClassVar[CropFlip | None] = None
    """Applied to training images; it flips only where a mirrored image is still of its class."""
    hub_name: ClassVar[str]
    """The dataset's name on the Hugging Face hub, for the message that says how to get it."""
    markers: ClassVar[tuple[str, str]]
    """The file or folder in the root that torchvision's training and test images are in."""

    download: bool = True
    """Let torchvision download the files if they are not found; `check` would, too."""

    @property
    def num_classes(self) -> int:
        """The number of `class_names`."""
        return len(self.class_names)

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """Return torchvision's dataset of this class's name; it only unpickles published files."""
        from torchvision import datasets  # a second, for which no recipe's check waits

        schema = getattr(datasets, type(self).__name__)
        return schema(root, train=train, download=download)

    def open(self, *, train: bool) -> TensorSource:
        """Return all training or test images, in memory as uint8; see `Dataset.open`."""
        from robustprune.datasets import parquet  # and pyarrow, which most commands do without

        augment = self.augmentation if train and self.augment else None
        split, marker = ("train", self.markers[0]) if train else ("test", self.markers[1])
        candidates = self._places()
        for place in candidates:
            if shards := parquet.shards(place, split):
                return TensorSource(*parquet.read(shards, **self._expected()), augment)
            if (place / marker).exists():
                return TensorSource(*self._from_torchvision(place, train, marker), augment)
        reason = "With 'download: true', torchvision would fetch its own."
        if self.download:
            try:
                last = candidates[-1]
                return TensorSource(*self._from_torchvision(last, train, marker), augment)
            except UsageError as error:
                reason = str(error)
        raise missing(
            f"dataset '{self.registered_name}': the {split}ing images were",
            f"{split}-*.parquet or {marker}",
            candidates,
            f"Put the parquet files of '{self.hub_name}' from the Hugging Face hub there, or "
            f"torchvision's files for {type(self).__name__}, or set 'root:'.\n{reason}",
        )

    def _from_torchvision(self, root: Path, train: bool, marker: str) -> Images:
        file = root / marker
        try:
            dataset = self.torchvision(root, train=train, download=self.download)
        except Exception as error:  # network, archive, pickle and file errors of many types
            what = f"{file} cannot be read" if file.exists() else "torchvision's download failed"
            raise UsageError(f"dataset '{self.registered_name}': {what} ({error}).") from error
        labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
        return checked(dataset.data, labels, **self._expected(), where=str(file))


_TEN = "airplane automobile bird cat deer dog frog horse ship truck"
_HUNDRED = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach "
    "couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster "
    "house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree "
    "motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket "
    "rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip "
    "turtle wardrobe whale willow_tree wolf woman worm"
)


@register("cifar10")
class CIFAR10(SmallImages):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, RGB, 32×32, 10 classes.

    Training images are padded by 4, cropped and mirrored at random.
    """

    augmentation = CropFlip()
    hub_name = "uoft-cs/cifar10"
    markers = ("cifar-10-batches-py", "cifar-10-batches-py")
    class_names = tuple(_TEN.split())


@register("cifar100")
class CIFAR100(SmallImages):
    """CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images, RGB, 32×32.

    Its 100 fine classes. Training images are padded by 4, cropped and mirrored at random.
    """

    augmentation = CropFlip()
    hub_name = "uoft-cs/cifar100"
    markers = ("cifar-100-python", "cifar-100-python")
    class_names = tuple(_HUNDRED.split())


@register("svhn")
class SVHN(SmallImages):
    """SVHN (Netzer et al. 2011), cropped house numbers: 73,257 training and 26,032 test images.

    RGB, 32×32, 10 digits. Training images are padded by 4 and cropped at random. They are not
    mirrored, because a mirrored digit is none (the reference implementation of HYDRA does so).
    """

    augmentation = CropFlip(flip=False)
    hub_name = "ufldl-stanford/svhn"
    markers = ("train_32x32.mat", "test_32x32.mat")

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """Return the torchvision dataset; it makes the published label 10 the digit 0."""
        from torchvision import datasets

        split = "train" if train else "test"
        return datasets.SVHN(root, split=split, download=download)


@register("mnist")
class MNIST(SmallImages):
    """MNIST (LeCun, Cortes, Burges 1998): handwritten digits. Not augmented.

    60,000 training and 10,000 test images, grey, 28×28, 10 digits.
    """

    channels = 1
    image_size = 28
    hub_name = "ylecun/mnist"
    markers = ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte")


@register("digits")
class Digits(Dataset):
    """scikit-learn's digits: 1,797 images, grey, 8×8, 10 digits. Not augmented, and no files.

    The last 360 images are the test set, the first 1,437 the training set. The split is ours (the
    set comes without one), fixed and not stratified. Values, 0 … 16 in the file, are divided by 16.
    """

    num_classes: ClassVar[int] = 10
    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 8
    class_names: ClassVar[tuple[str, ...]] = DIGITS

    @model_validator(mode="after")
    def _refuse_root(self) -> Digits:
        if self.root is not None:
            raise ValueError("'digits' comes with scikit-learn and has no files; leave out 'root'")
        return self

    def open(self, *, train: bool) -> TensorSource:
        """Return all training or test images; see `Dataset.open`."""
        rows = torch.from_numpy(_digits())
        rows = rows[:-360] if train else rows[-360:]
        images = rows[:, :-1].float().div_(16).view(-1, 1, 8, 8)
        return TensorSource(images, rows[:, -1].long())


@cache
def _digits() -> NDArray[np.float64]:
    """Read 64 pixels and a label per row; importing scikit-learn for them would take a second."""
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    return np.loadtxt(str(file), delimiter=",")
