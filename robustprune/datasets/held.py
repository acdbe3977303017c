"""A dataset of images that a caller holds, in the place of one that a recipe names."""

from __future__ import annotations

from dataclasses import replace

from pydantic import PrivateAttr

from robustprune.datasets.base import Dataset, Splits
from robustprune.datasets.source import Source


class Given(Dataset):
    """Images that are there already: nothing is known of files."""

    _splits: Splits = PrivateAttr()

    @classmethod
    def of(cls, splits: Splits, *, validation: float = 0.0) -> Given:
        """Hold images; a share of those to learn from is held out unless others validate."""
        known = splits.validation is not None
        made = cls(validation=0.5 if known else validation)  # not 0: there are such images
        made._splits = splits
        return made

    @property
    def num_classes(self) -> int:
        """The number of the network's logits."""
        return self._splits.num_classes

    @property
    def channels(self) -> int:
        """The number of the images' channels."""
        return self._splits.channels

    @property
    def image_size(self) -> int:
        """The images' height."""
        return self._splits.image_size

    def open(self, *, train: bool) -> Source:
        """Return the images to learn from, or to judge by."""
        found = self._splits.train if train else self._splits.test
        assert found is not None
        return found

    def load(self, *, seed: int, train: bool = True, test: bool = True) -> Splits:
        """Return the splits as they are, or with images held out of those to learn from."""
        if self._splits.validation is not None or not self.validation:
            return self._splits
        learned, held_out = self._split(self.open(train=True), seed)
        return replace(self._splits, train=learned, validation=held_out)
