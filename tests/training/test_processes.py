"""Two processes train as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.jobs import run_job
from tests.training import battery

Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return battery.everything(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder: Path = tmp_path_factory.mktemp("both")
    run_job("tests.training.battery", folder)
    found: Found = torch.load(folder / "found.pt", weights_only=True)
    return found


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name].double(), other[name].double(), rtol=1e-4, atol=1e-5)
        for name in one
    )


@pytest.mark.parametrize("name", [name for name in battery.trainings() if name != "local"])
def test_they_end_with_the_same_network(name: str, alone: Found, both: Found) -> None:
    assert close(both[name]["weights"], alone[name]["weights"])
    for one, other in zip(both[name]["history"], alone[name]["history"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_local_statistics_are_another_training(alone: Found, both: Found) -> None:
    assert not close(both["local"]["weights"], alone["local"]["weights"])
    assert close(alone["local"]["weights"], alone["noisy pretrain"]["weights"])


@pytest.mark.parametrize("what", ["output", "gradient", "weight", "mean", "variance"])
def test_batch_norm_is_that_of_the_whole_batch(what: str, alone: Found, both: Found) -> None:
    found, expected = both["normalised"][what], alone["normalised"][what]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert expected.abs().max() > 0.01


def test_draws_that_depend_on_the_process_are_told_of(alone: Found, both: Found) -> None:
    assert (both["draws"], alone["draws"]) == (True, False)
