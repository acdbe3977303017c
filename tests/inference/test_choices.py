from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.inference import SparseNetwork, sparse_with
from robustprune.inference.choices import least
from robustprune.inference.segment import Segment
from robustprune.inference.timing import Seconds
from robustprune.kernels.operations import Array
from robustprune.unparametrize import plain_copy
from tests.inference.networks import images, prepared, residual
from tests.kernels.reference import ReferenceProgram


@pytest.fixture(autouse=True)
def no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", str(tmp_path))


class Fast(ReferenceProgram):
    """Seems to take no time, for it remembers what it has seen."""

    def __call__(self, images: Array) -> Array:
        self.seen: dict[tuple[int, ...], Array] = getattr(self, "seen", {})
        key = (len(images), self.operations[0].arrays.get("bias", images).size)
        if key not in self.seen:
            self.seen[key] = super().__call__(images)
        return self.seen[key]


class Slow(ReferenceProgram):
    def __call__(self, images: Array) -> Array:
        if len(self.operations) > 1:
            time.sleep(0.003)
        return super().__call__(images)


class Slower(ReferenceProgram):
    """Each layer is fast, the whole is not."""

    def __call__(self, images: Array) -> Array:
        if len(self.operations) > 2:
            time.sleep(0.05)
            return super().__call__(images)
        return images


def chosen(program: Any, x: Tensor, choices: Any = None, network: Any = None) -> nn.Module:
    network = plain_copy(network or prepared(residual()))
    return sparse_with(program, network, x, threads=1, choices=choices, tell=pytest.fail)


def test_a_chain_in_which_nothing_gains_stays_dense() -> None:
    assert least([Seconds(1, 2, 0, 0), Seconds(1, 1.5, 0, 0)]) == [False, False]
    assert least([]) == []


def test_changes_of_layout_count() -> None:
    # sparse gains 1 in the first and loses 0.5 in the second; leaving the layout costs 0.4 twice
    chain = [Seconds(2, 1, 0.2, 0.4), Seconds(1, 1.5, 0.4, 0.4), Seconds(2, 1, 0.4, 0.1)]
    assert least(chain) == [True, True, True]
    assert least([chain[0], chain[1]]) == [True, False]
    assert least([Seconds(2, 1, 0.6, 0.6)]) == [False]
    assert least([chain[0], Seconds(1, math.inf, 0.4, 0.4), chain[2]]) == [True, False, True]


def cost(choice: Sequence[bool], chain: list[Seconds]) -> float:
    total, is_sparse = 0.0, False
    for sparse, seconds in zip(choice, chain, strict=True):
        total += seconds.sparse if sparse else seconds.dense
        total += seconds.before if sparse != is_sparse else 0
        is_sparse = sparse
    return total + (chain[-1].after if is_sparse else 0)


def test_the_sum_of_a_chain_is_least() -> None:
    generator = torch.Generator().manual_seed(0)

    for _ in range(50):
        changes = torch.rand(6, generator=generator).tolist()
        sums = torch.rand(5, 2, generator=generator).tolist()
        rows = zip(sums, changes, changes[1:], strict=False)
        chain = [Seconds(dense, sparse, *around) for (dense, sparse), *around in rows]

        costs = [cost(choice, chain) for choice in product([False, True], repeat=5)]
        assert cost(least(chain), chain) == pytest.approx(min(costs))


def test_a_network_that_gains_is_sparse_and_its_choices_make_it_again() -> None:
    x = images(4, 3, 8, 8)
    first = chosen(Fast, x)
    assert isinstance(first, SparseNetwork)
    assert first.choices["network"] == "sparse"
    assert first.choices["batch"] == 4
    assert set(first.choices["milliseconds"]) == {"dense", "dense, channels last", "sparse"}
    text = json.dumps(first.choices)
    assert len(text) < 2000

    class Watched(ReferenceProgram):
        def __call__(self, images: Array) -> Array:
            raise AssertionError("measured")

    again = chosen(Watched, x, json.loads(text))
    assert isinstance(again, SparseNetwork)
    assert again.choices == first.choices
    parts = [
        [
            (one.program.few, [p.layer for p in one.parts])
            for one in network.modules()
            if isinstance(one, Segment)
        ]
        for network in (first, again)
    ]
    assert parts[0] == parts[1]


@pytest.mark.slow
def test_few_is_where_going_one_by_one_ceases_to_pay() -> None:
    class ByGroup(ReferenceProgram):
        def __call__(self, images: Array) -> Array:
            if len(self.operations) > 2:
                time.sleep(0.002 if len(images) == 1 else 0.0085)
            return images if len(self.operations) <= 2 else super().__call__(images)

    class Dense(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(x, torch.fx.Proxy):
                time.sleep(0.05)
            return super().forward(x)

    network = chosen(ByGroup, images(4, 3, 8, 8), network=Dense(*prepared(residual())))
    assert network.choices["network"] == "sparse"
    assert 2 <= network.choices["few"] <= 4
    assert {part.program.few for part in network.modules() if isinstance(part, Segment)} == {
        network.choices["few"]
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "reason"),
    [(Slow, "no layer is faster sparse"), (Slower, "the whole is not faster sparse")],
)
def test_a_network_that_does_not_gain_is_the_plain_one(program: Any, reason: str) -> None:
    network, x = prepared(residual()), images(4, 3, 8, 8)
    dense = chosen(program, x, network=network)
    assert dense.choices["network"].startswith("dense")
    assert dense.choices["reason"] == reason
    assert type(dense) is nn.Sequential
    again = chosen(None, x, json.loads(json.dumps(dense.choices)), network=network)
    assert torch.equal(dense(x), again(x))
    assert torch.allclose(dense(x), network(x), atol=1e-6)


def test_a_network_without_a_known_layer_is_the_plain_one() -> None:
    network = chosen(None, images(2, 3, 8, 8), network=nn.Sequential(nn.GELU(), nn.Sigmoid()))
    assert network.choices["network"] == "dense"
    assert network.choices["torch"] == ["0", "1"]


def test_choices_of_another_network_are_refused() -> None:
    x = images(4, 3, 8, 8)
    choices = {"network": "sparse", "few": 1, "layers": {"0": {"sparse": True}}}
    with pytest.raises(UsageError, match=r"of a network with other layers: .*2\.conv1"):
        chosen(ReferenceProgram, x, choices)
    with pytest.raises(UsageError, match="are no choices"):
        chosen(ReferenceProgram, x, {"network": "both"})
