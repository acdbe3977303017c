from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from robustprune.datasets import create


@pytest.mark.parametrize(("train", "first", "last"), [(True, 0, 1437), (False, 1437, 1797)])
def test_they_are_scikit_learn_s_own(train: bool, first: int, last: int) -> None:
    source, theirs = create("digits").open(train=train), load_digits()
    pixels = torch.from_numpy(theirs.images[first:last]).float() / 16
    assert torch.equal(source.images, pixels[:, None])
    assert source.labels.tolist() == theirs.target[first:last].tolist()
