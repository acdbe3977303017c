from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from robustprune import datasets
from robustprune.errors import InvalidError


def test_the_split_is_the_documented_one():
    splits = datasets.create("digits").load(seed=0)
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    known = load_digits()
    assert torch.equal(splits.test.images[0, 0], torch.tensor(known.images[1437]).float() / 16)
    assert torch.equal(splits.train.labels, torch.tensor(known.target[:1437]))
    assert torch.equal(splits.test.labels.unique(), torch.arange(10))


def test_a_root_is_refused():
    with pytest.raises(InvalidError, match="leave out 'root'"):
        datasets.create("digits", root="data")
