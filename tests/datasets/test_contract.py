"""What every registered dataset promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustprune import datasets
from robustprune.errors import InvalidError, UsageError
from robustprune.testing.datasets import DATASETS

from .fakes import create

every_dataset = pytest.mark.parametrize("name", datasets.names())


@every_dataset
@pytest.mark.parametrize("promise", DATASETS.promises, ids=lambda promise: promise.__name__)
def test_it_keeps_its_promises(name, promise, tmp_path):
    promise(create(name, tmp_path / "data"))


@every_dataset
def test_too_large_a_subset_is_the_users_error(name, tmp_path):
    dataset = create(name, tmp_path / "data", subset=10**6)
    with pytest.raises(UsageError, match="1000000 training images"):
        dataset.load(seed=0)


@every_dataset
def test_options_out_of_range_are_refused(name):
    wrong = {"validation": 1.0, "subset": 0, "rooot": "x"}
    with pytest.raises(InvalidError) as error:
        datasets.create(name, **wrong)
    assert {problem.place[0] for problem in error.value.problems} == wrong.keys()


@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"digits"}))
def test_missing_files_are_named_with_every_place_and_a_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(tmp_path / "shared"))
    options = {} if name == "imagefolder" else {"download": False}
    with pytest.raises(UsageError) as error:
        datasets.create(name, **options).load(seed=0)
    message = str(error.value)
    places = (
        Path.cwd() / "data" / name,
        tmp_path / "shared/data" / name,
        tmp_path / "shared" / name,
    )
    assert all(f"{place}" in message for place in places)
    assert "root:" in message
