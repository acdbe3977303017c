import itertools

import pytest
import torch
from torch import Tensor

from robustprune.errors import DivergedError
from robustprune.masking.allocations import round_count
from robustprune.masking.selection import keep_largest

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def by_sorting(importance: Tensor, kept: int) -> Tensor:
    flat = importance.flatten().tolist()
    best = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:kept]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[best] = True
    return mask.view(importance.shape)


def whole_numbers(*shape: int, highest: int = 9, seed: int = 0) -> Tensor:
    """Values that every float type holds exactly, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(highest + 1, shape, generator=generator).float()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("highest", [0, 1, 3, 200])
def test_it_agrees_with_sorting_at_every_count(dtype, highest):
    importance = whole_numbers(3, 7, highest=highest)
    for kept in range(22):
        mask = keep_largest(importance.to(dtype), kept)
        assert mask.dtype == torch.bool
        assert int(mask.sum()) == kept
        assert torch.equal(mask, by_sorting(importance, kept))


def test_the_way_through_numpy_and_the_one_through_torch_agree():
    importance = whole_numbers(4000, highest=100)
    for kept in (1, 17, 40, 2000, 3999, 4000):
        assert torch.equal(
            keep_largest(importance, kept), keep_largest(importance.bfloat16(), kept)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_zeros_and_infinities_are_ordered_as_numbers_are(dtype):
    importance = torch.tensor([-1, 2, -0.0, 0, -3, torch.inf, 5e-324, 1, -torch.inf], dtype=dtype)
    for values in (importance, importance.abs()):
        for kept in range(10):
            assert torch.equal(keep_largest(values, kept), by_sorting(values, kept))


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_go_to_the_lower_row_major_index(dtype):
    importance = torch.tensor([[1, 2, 2], [2, 0, 2]], dtype=dtype)
    assert keep_largest(importance, 3).tolist() == [[False, True, True], [True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_channels_last_gives_the_mask_of_contiguous(dtype):
    importance = whole_numbers(4, 3, 5, 5).to(dtype)
    turned = importance.contiguous(memory_format=torch.channels_last)
    assert not turned.is_contiguous()
    for kept in (1, 30, 151, 299):
        assert torch.equal(keep_largest(turned, kept), by_sorting(importance, kept))


def test_views_that_are_not_contiguous_give_the_mask_of_a_copy():
    base = whole_numbers(8, 12)
    for view in (base.t(), base[::2, 1::3], base.unflatten(1, (3, 4)).permute(2, 0, 1)):
        for kept in (1, view.numel() // 2):
            assert torch.equal(keep_largest(view, kept), by_sorting(view, kept))


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_zero_keeps_the_first_ones(dtype):
    mask = keep_largest(torch.zeros(2, 5, dtype=dtype), 3)
    assert mask.flatten().tolist() == [True] * 3 + [False] * 7


def test_infinity_is_the_largest():
    assert keep_largest(torch.tensor([1.0, torch.inf, 3.0]), 1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("others", [[3, 2, 1], [1, 1, 1], [0, 0, 0]])
def test_nan_is_refused_even_beside_ties(dtype, others):
    for place, kept in itertools.product(range(4), (1, 2, 4)):
        values = [float(value) for value in others]
        values.insert(place, torch.nan)
        with pytest.raises(DivergedError, match="NaN"):
            keep_largest(torch.tensor(values, dtype=dtype), kept)


@pytest.mark.parametrize("kept", [-1, 5])
def test_counts_out_of_range_are_refused(kept):
    with pytest.raises(ValueError, match=f"cannot keep {kept} of 4"):
        keep_largest(torch.ones(4), kept)


def test_the_scores_are_left_as_they_were():
    importance = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    mask = keep_largest(importance, 1)
    assert importance.tolist() == [3.0, 1.0, 2.0]
    assert not mask.requires_grad


@pytest.mark.parametrize(
    ("density", "total", "kept"),
    [
        (0.29, 100, 29),  # 0.29 · 100 is 28.999…
        (0.9, 10, 9),
        (0.01, 768, 8),
        (0.05, 768, 38),
        (0.01, 150, 2),  # 1.5: to the even one
        (0.01, 250, 2),  # 2.5: to the even one
        (0.001, 100, 1),
        (1e-9, 1, 1),
        (0.999, 3, 3),
        (1.0, 7, 7),
    ],
)
def test_density_becomes_the_nearest_count_and_at_least_one(density, total, kept):
    assert round_count(density, total) == kept
    assert int(keep_largest(whole_numbers(total), round_count(density, total)).sum()) == kept
