"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32×32 photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from robustprune.datasets import register
from robustprune.datasets.files import FileDataset


@register("cifar10")
class CIFAR10(FileDataset):
    """CIFAR-10: 50,000 training and 10,000 test images, RGB, 32×32, 10 classes.

    Training images are padded by 4, cropped and mirrored at random.
    """

    num_classes: ClassVar[int] = 10
    channels: ClassVar[int] = 3
    image_size: ClassVar[int] = 32
    padding: ClassVar[int] = 4
    flip: ClassVar[bool] = True
    hub_name: ClassVar[str] = "uoft-cs/cifar10"
    class_names: ClassVar[tuple[str, ...]] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def marker(self, *, train: bool) -> str:
        """The torchvision folder."""
        return "cifar-10-batches-py"

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """The torchvision dataset; it unpickles only files with the published MD5 sums."""
        from torchvision import datasets

        return datasets.CIFAR10(root, train=train, download=download)


_FINE = (
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


@register("cifar100")
class CIFAR100(FileDataset):
    """CIFAR-100: 50,000 training and 10,000 test images, RGB, 32×32, 100 (fine) classes.

    Training images are padded by 4, cropped and mirrored at random.
    """

    num_classes: ClassVar[int] = 100
    channels: ClassVar[int] = 3
    image_size: ClassVar[int] = 32
    padding: ClassVar[int] = 4
    flip: ClassVar[bool] = True
    hub_name: ClassVar[str] = "uoft-cs/cifar100"
    class_names: ClassVar[tuple[str, ...]] = tuple(_FINE.split())

    def marker(self, *, train: bool) -> str:
        """The torchvision folder."""
        return "cifar-100-python"

    def torchvision(self, root: Path, *, train: bool, download: bool) -> Any:
        """The torchvision dataset; it unpickles only files with the published MD5 sums."""
        from torchvision import datasets

        return datasets.CIFAR100(root, train=train, download=download)
