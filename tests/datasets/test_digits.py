from __future__ import annotations

import importlib.util

import pytest
import torch
from sklearn.datasets import load_digits

from robustprune.datasets import create, digits


@pytest.fixture(autouse=True)
def anew() -> None:
    digits._rows.cache_clear()


@pytest.mark.parametrize("by_file", [True, False])
@pytest.mark.parametrize(("train", "first", "last"), [(True, 0, 1437), (False, 1437, 1797)])
def test_they_are_scikit_learn_s_own(
    monkeypatch: pytest.MonkeyPatch, by_file: bool, train: bool, first: int, last: int
) -> None:
    if not by_file:  # as if its files lay elsewhere
        find = importlib.util.find_spec
        hidden = lambda name, *rest: None if name == "sklearn" else find(name, *rest)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", hidden)
    source, theirs = create("digits").open(train=train), load_digits()
    pixels = torch.from_numpy(theirs.images[first:last]).float() / 16
    assert torch.equal(source.images, pixels[:, None])
    assert source.labels.tolist() == theirs.target[first:last].tolist()
