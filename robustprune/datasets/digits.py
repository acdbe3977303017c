"""The small digits that come with scikit-learn: something to run without any file."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from robustprune.datasets import register
from robustprune.datasets.base import Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    class_names: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))

    @model_validator(mode="after")
    def _refuse_root(self) -> Digits:
        if self.root is not None:
            raise ValueError("'digits' comes with scikit-learn and has no files; leave out 'root'")
        return self

    def open(self, *, train: bool) -> TensorSource:
        """All training or test images; see `Dataset.open`."""
        import torch

        from robustprune.datasets.source import TensorSource

        rows = torch.from_numpy(_rows())
        rows = rows[:-TEST_IMAGES] if train else rows[-TEST_IMAGES:]
        images = rows[:, :-1].float().div_(16).view(-1, 1, 8, 8)
        return TensorSource(images, rows[:, -1].long())


@cache
def _rows() -> NDArray[np.float64]:
    """64 pixels and a label a row, as scikit-learn's own file has them.

    Importing scikit-learn takes a second, a third of what `check` takes in all.
    """
    import numpy as np

    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
