import math

import pytest
import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.masking import allocations

DENSITIES = (1e-6, 0.001, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.9, 0.999, 1.0)
NETWORKS = {
    "cnn_small": [(16, 3, 4, 4), (32, 16, 4, 4), (100, 2048), (10, 100)],
    "tiny layers": [(1, 1), (2, 1, 1, 1), (3, 2), (10, 1, 3, 3)],
    "one layer": [(5, 7)],
    "many": [(8, 4, 3, 3), (8, 8, 1, 1)] * 12 + [(10, 8)],
}


def network(shapes: list[tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"l{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


def zeros(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_every_layer_keeps_something_and_the_whole_comes_to_the_density(name, shapes):
    scores = network(shapes)
    total = sum(score.numel() for score in scores.values())
    for density in DENSITIES:
        counts = allocations.create(name)(scores, density)
        assert list(counts) == list(scores)
        assert all(type(count) is int for count in counts.values())
        assert all(1 <= counts[key] <= scores[key].numel() for key in scores)
        # half a weight a layer of rounding, or a whole one where a layer would be empty
        assert abs(sum(counts.values()) - density * total) <= len(shapes)


@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_density_one_keeps_everything(name, shapes):
    scores = network(shapes)
    counts = allocations.create(name)(scores, 1.0)
    assert counts == {key: score.numel() for key, score in scores.items()}


@pytest.mark.parametrize("name", allocations.names())
def test_all_zero_scores_are_allocated_too(name):
    scores = zeros(a=(4, 4), b=(2, 2))
    assert 2 <= sum(allocations.create(name)(scores, 0.25).values()) <= 6


@pytest.mark.parametrize("name", allocations.names())
def test_scores_are_left_as_they_were_whatever_their_layout(name):
    scores = {"a": torch.randn(4, 3, 3, 3), "b": torch.randn(2, 9)}
    turned = {key: score.clone() for key, score in scores.items()}
    turned["a"] = turned["a"].to(memory_format=torch.channels_last)
    part = allocations.create(name)
    assert part(turned, 0.2) == part(scores, 0.2)
    assert torch.equal(turned["a"], scores["a"])
    assert torch.equal(turned["b"], scores["b"])


def test_uniform_by_hand():
    counts = allocations.create("uniform")(zeros(a=(16, 3, 4, 4), b=(10, 10), c=(5, 1)), 0.01)
    assert counts == {"a": 8, "b": 1, "c": 1}  # 7.68, 1, 0.05


def test_global_by_hand_goes_by_magnitude():
    scores = {"a": torch.tensor([-9.0, 1, 2]), "b": torch.tensor([3.0, -4, 5, 0, 0])}
    assert allocations.create("global")(scores, 0.5) == {"a": 1, "b": 3}


def test_global_ties_go_to_the_earlier_layer():
    scores = {"a": torch.ones(3), "b": torch.ones(3)}
    assert allocations.create("global")(scores, 4 / 6) == {"a": 3, "b": 1}


def test_global_leaves_no_layer_empty_and_takes_that_from_the_fullest():
    scores = {
        "a": torch.tensor([7.0, 6]),
        "b": torch.tensor([9.0, 8, 5, 4]),
        "c": torch.tensor([0.1, 0.2, 0.3]),
        "d": torch.zeros(1),
    }
    # the six largest are a: 2, b: 4, c: 0, d: 0
    assert allocations.create("global")(scores, 0.6) == {"a": 2, "b": 2, "c": 1, "d": 1}


@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_globals_total_is_exact(shapes):
    scores = network(shapes)
    total = sum(score.numel() for score in scores.values())
    for density in DENSITIES:
        kept = sum(allocations.create("global")(scores, density).values())
        assert kept == max(round(density * total), len(shapes))


def test_global_refuses_nan():
    with pytest.raises(UsageError, match="NaN"):
        allocations.create("global")({"a": torch.tensor([1.0, torch.nan])}, 0.5)


def test_erk_by_hand():
    # budget 0.2 · 206 = 41.2 shared as 5 : 30, that is 5.886 and 35.314
    assert allocations.create("erk")(zeros(a=(2, 3), b=(10, 20)), 0.2) == {"a": 6, "b": 35}


def test_erk_counts_the_kernel_of_a_convolution():
    # shares 4+2+3+3 = 12 of 72 and 8+4 = 12 of 32: budget 10.4 is halved
    assert allocations.create("erk")(zeros(a=(4, 2, 3, 3), b=(8, 4)), 0.1) == {"a": 5, "b": 5}


def test_erk_keeps_a_small_layer_dense_and_shares_out_the_rest():
    # budget 103; 5/35 of it is 14.7, more than a has: it stays whole and b gets 97
    assert allocations.create("erk")(zeros(a=(2, 3), b=(10, 20)), 0.5) == {"a": 6, "b": 97}


def test_erk_caps_again_after_a_cap():
    scores = zeros(a=(1, 1), b=(2, 8), c=(7, 7))
    shares = {"a": 2, "b": 10, "c": 14}
    density = 0.6
    budget = density * 66
    assert budget * shares["b"] / 26 < 16  # not full at first
    assert (budget - 1) * shares["b"] / 24 > 16  # full once a is
    assert allocations.create("erk")(scores, density) == {"a": 1, "b": 16, "c": 23}  # 39.6 − 17


def test_erk_densities_fall_with_size():
    shapes = {"a": (16, 3, 3, 3), "b": (64, 64, 3, 3), "c": (512, 512, 3, 3)}
    counts = allocations.create("erk")(zeros(**shapes), 0.1)
    densities = [counts[name] / math.prod(shapes[name]) for name in shapes]
    assert densities == sorted(densities, reverse=True)
