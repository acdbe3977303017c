"""The real images, if there are any: $ROBUSTPRUNE_DATA, or ../shared/data beside us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustprune import datasets

BESIDE = Path(__file__).resolve().parents[3] / "shared/data"
DATA = Path(os.environ.get("ROBUSTPRUNE_DATA", BESIDE)).absolute()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_the_real_test_images(name, monkeypatch):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}")
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(DATA))
    test = datasets.create(name, download=False).load(seed=0, train=False).test
    assert len(test) == 10_000
    counts = test.labels.bincount(minlength=10)
    assert counts.min() > 800
    mean = test.images.float().mean() / 255
    assert 0.1 < mean < 0.6
    assert next(test.ordered(500, limit=3)).images.shape[1:] == test.images.shape[1:]
