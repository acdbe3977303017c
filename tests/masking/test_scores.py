import math

import pytest
import torch
from torch import nn

from robustprune.masking.selection import ScoreInit, init_scores

NAMES = ScoreInit.__args__
DRAWN = ("kaiming", "xavier", "random")


def scores_of(weight, name, seed=0):
    return init_scores(weight, name, torch.Generator().manual_seed(seed))


def test_scaled_magnitude_of_a_linear_layer_by_hand():
    weight = torch.tensor([[0.5, -2.0, 1.0], [0.0, 4.0, -1.0]])
    factor = math.sqrt(2) / 4  # sqrt(6 / 3) / max|w|
    assert torch.allclose(scores_of(weight, "scaled_magnitude"), factor * weight)


def test_scaled_magnitude_of_a_convolution_counts_the_kernel_in_its_fan():
    weight = torch.arange(-11.0, 13).view(2, 3, 2, 2)
    expected = math.sqrt(6 / 12) * weight / 12
    assert torch.allclose(scores_of(weight, "scaled_magnitude"), expected)


def test_the_fan_of_a_grouped_convolution_is_its_groups_own():
    weight = nn.Conv2d(6, 6, 3, groups=3).weight
    largest = scores_of(weight, "scaled_magnitude").abs().max()
    assert float(largest) == pytest.approx(math.sqrt(6 / 18))


@pytest.mark.parametrize("name", ["scaled_magnitude", "magnitude"])
def test_an_all_zero_layer_has_zero_scores(name):
    assert torch.equal(scores_of(torch.zeros(3, 4), name), torch.zeros(3, 4))


def test_magnitude_is_a_copy_of_the_weight():
    weight = torch.randn(3, 4)
    scores = scores_of(weight, "magnitude")
    assert torch.equal(scores, weight)
    assert scores.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_is_untouched_and_scores_are_no_part_of_its_graph(name):
    layer = nn.Conv2d(3, 4, 3)
    before = layer.weight.detach().clone()
    scores = scores_of(layer.weight, name)
    assert torch.equal(layer.weight, before)
    assert not scores.requires_grad
    assert scores.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_type_and_memory_format_are_the_weights(name, dtype):
    weight = nn.Conv2d(3, 4, 3).weight.detach().to(dtype)
    turned = weight.to(memory_format=torch.channels_last)
    assert scores_of(weight, name).is_contiguous()
    scores = scores_of(turned, name)
    assert scores.stride() == turned.stride() != weight.stride()
    assert scores.dtype == dtype
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize("name", ["scaled_magnitude", "magnitude"])
def test_memory_format_does_not_change_the_values(name):
    weight = nn.Conv2d(3, 4, 3).weight.detach()
    turned = weight.to(memory_format=torch.channels_last)
    assert torch.equal(scores_of(weight, name), scores_of(turned, name))


@pytest.mark.parametrize("name", DRAWN)
def test_random_scores_follow_the_generator(name):
    weight = torch.randn(8, 9)
    assert torch.equal(scores_of(weight, name), scores_of(weight, name))
    assert not torch.equal(scores_of(weight, name), scores_of(weight, name, seed=1))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("kaiming", -1 / math.sqrt(30), 1 / math.sqrt(30)),
        ("xavier", -math.sqrt(6 / 130), math.sqrt(6 / 130)),
        ("random", 0.0, 1.0),
    ],
)
def test_random_scores_fill_their_range(name, low, high):
    scores = scores_of(torch.zeros(100, 30), name)
    assert low <= float(scores.min()) < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < float(scores.max()) <= high
    assert float(scores.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_from_the_global_generator(name):
    state = torch.get_rng_state()
    scores_of(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), name)
    assert torch.equal(torch.get_rng_state(), state)
