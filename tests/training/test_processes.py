"""Two processes train as one does, but for what each draws and normalises by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs import run_job
from tests.training import battery
from tests.training.battery import DRAWING, STEADY

pytestmark = pytest.mark.slow
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


@pytest.mark.parametrize("name", STEADY)
def test_gradients_are_those_of_one_process(name: str, alone: Found, both: Found) -> None:
    for one, other in zip(alone[name]["gradients"], both[name]["gradients"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(bool(gradient.any()) for gradient in both[name]["gradients"])
    for one, other in zip(both[name]["history"], alone[name]["history"], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("name", [*STEADY, *DRAWING, "resumed"])
def test_all_processes_have_the_same_masks(name: str, both: Found) -> None:
    first, second = both[name]["masks"]
    assert first.keys() == second.keys()
    assert all(torch.equal(mask, second[layer]) for layer, mask in first.items())
    one, other = both[name]["method"]
    assert one == other


@pytest.mark.parametrize("which", ["alone", "both"])
def test_a_job_that_was_stopped_comes_to_the_same_bits(
    which: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(which)
    whole, resumed = found["noisy dynamic"], found["resumed"]
    assert resumed["history"] == whole["history"]
    assert all(torch.equal(resumed["weights"][n], t) for n, t in whole["weights"].items())


def test_each_process_draws_for_its_own_images(alone: Found, both: Found) -> None:
    one, other = alone["noisy pretrain"]["gradients"], both["noisy pretrain"]["gradients"]
    assert not torch.allclose(one[0], other[0], rtol=1e-3)


def test_masks_that_differ_stop_the_job_and_say_what_to_suspect(alone: Found, both: Found) -> None:
    assert alone["liar"] == [""]
    first, second = both["liar"]
    assert first.startswith("RuntimeError: toy dynamic 2/2 has ended: now, process 1 of 2")
    assert "must draw from context.generator only" in first
    assert second.startswith("PeerError")
