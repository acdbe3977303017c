"""The small digits that come with scikit-learn: something to run without any file."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from robustprune.datasets import register
from robustprune.datasets.base import Dataset

if TYPE_CHECKING:
    from robustprune.datasets.source import TensorSource

TEST_IMAGES = 360


@register("digits")
class Digits(Dataset):
    """scikit-learn's digits: 1,797 images, grey, 8×8, 10 digits. Not augmented.

    The last 360 images are the test set, the first 1,437 the training set. The split is ours (the
    set comes without one), fixed and not stratified. Values, 0 … 16 in the file, are divided by 16.
    """

    num_classes: ClassVar[int] = 10
    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 8

    @model_validator(mode="after")
    def _refuse_root(self) -> Digits:
        if self.root is not None:
            raise ValueError("'digits' comes with scikit-learn and has no files; leave out 'root'")
        return self

    def open(self, *, train: bool) -> TensorSource:
        """All training or test images; see `Dataset.open`."""
        import torch
        from sklearn.datasets import load_digits

        from robustprune.datasets.source import TensorSource

        digits = load_digits()
        which = slice(None, -TEST_IMAGES) if train else slice(-TEST_IMAGES, None)
        images = torch.from_numpy(digits.images[which]).float().div_(16)[:, None]
        return TensorSource(images, torch.from_numpy(digits.target[which]).long())
