import math

import pytest
import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.masking import allocations
from robustprune.testing.masks import ALLOCATIONS

DENSITIES = (1e-6, 0.001, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.9, 0.999, 1.0)
NETWORKS = {
    "cnn_small": [(16, 3, 4, 4), (32, 16, 4, 4), (100, 2048), (10, 100)],
    "tiny layers": [(1, 1), (2, 1, 1, 1), (3, 2), (10, 1, 3, 3)],
    "one layer": [(5, 7)],
    "many": [(8, 4, 3, 3), (8, 8, 1, 1)] * 12 + [(10, 8)],
}


def network(shapes: list[tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"l{i}": torch.randn(shape, generator=generator).abs() for i, shape in enumerate(shapes)
    }


def zeros(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def impossible(name: str, scores: dict[str, Tensor], density: float) -> bool:
    """True where uniform_plus has nothing left for the layers between the ends."""
    sizes = [score.numel() for score in scores.values()]
    total, first, last = max(1, round(density * sum(sizes))), sizes[0], round(sizes[-1] / 5)
    dense = first if next(iter(scores.values())).ndim > 2 else 0
    others = len(sizes) - 1 - (dense > 0)
    return name == "uniform_plus" and (total - dense) < max(1, last) + others


@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_every_layer_keeps_something_and_the_whole_comes_to_the_density(name, shapes):
    scores = network(shapes)
    total = sum(score.numel() for score in scores.values())
    for density in DENSITIES:
        if impossible(name, scores, density):
            with pytest.raises(UsageError, match="Ask for a higher density"):
                allocations.create(name)(scores, density)
            continue
        counts = allocations.create(name)(scores, density)
        assert list(counts) == list(scores)
        assert all(type(count) is int for count in counts.values())
        assert all(1 <= counts[key] <= scores[key].numel() for key in scores)
        # half a weight a layer of rounding, or a whole one where a layer would be empty
        assert abs(sum(counts.values()) - density * total) <= len(shapes)


@pytest.mark.parametrize("promise", ALLOCATIONS.promises, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", allocations.names())
def test_it_keeps_its_promises(name, promise):
    promise(allocations.create(name))


def test_uniform_by_hand():
    counts = allocations.create("uniform")(zeros(a=(16, 3, 4, 4), b=(10, 10), c=(5, 1)), 0.01)
    assert counts == {"a": 8, "b": 1, "c": 1}  # 7.68, 1, 0.05


def test_global_by_hand():
    scores = {"a": torch.tensor([9.0, 1, 2]), "b": torch.tensor([3.0, 4, 5, 0, 0])}
    assert allocations.create("global")(scores, 0.5) == {"a": 1, "b": 3}


@pytest.mark.parametrize("name", ["global", "lamp"])
def test_entries_below_0_go_first_whatever_their_size(name):
    scores = {"a": torch.tensor([-9.0, -9, 0.5, -9]), "b": torch.tensor([0.4, 0.3, 0.2, -9])}
    assert allocations.create(name)(scores, 0.5) == {"a": 1, "b": 3}


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


def test_igq_by_hand():
    # f = 1/12: 4 / (4/12 + 1) = 3, 12 / 2 = 6, 6 / 1.5 = 4, which is 13 of 22
    assert allocations.create("igq")(zeros(a=(2, 2), b=(3, 4), c=(6, 1)), 13 / 22) == {
        "a": 3,
        "b": 6,
        "c": 4,
    }


@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_igqs_total_is_exact_and_one_f_fits_all_layers(shapes):
    scores = network(shapes)
    sizes = {name: score.numel() for name, score in scores.items()}
    for density in DENSITIES:
        counts = allocations.create("igq")(scores, density)
        assert sum(counts.values()) == max(round(density * sum(sizes.values())), len(sizes))
        # k = n / (f·n + 1) gives f = 1/k − 1/n; each count is within 1 of such a k
        low = max(1 / (k + 1) - 1 / sizes[name] for name, k in counts.items())
        least = [(k - 1, sizes[name]) for name, k in counts.items() if k > 1]
        assert low <= min((1 / k - 1 / n for k, n in least), default=math.inf) + 1e-12


def brute_lamp(scores: dict[str, Tensor], density: float) -> dict[str, int]:
    """From the definition, entry by entry."""
    found = []
    for name, score in scores.items():
        squares = [float(w) ** 2 for w in score.reshape(-1)]
        found += [(s / sum(v for v in squares if v >= s), name) for s in squares]
    found = sorted(found, reverse=True)[: round(density * len(found))]
    return {name: sum(layer == name for _, layer in found) for name in scores}


@pytest.mark.parametrize("density", [0.05, 0.3, 0.7])
def test_lamp_is_what_its_definition_says(density):
    scores = network([(4, 2, 3, 3), (10, 8), (3, 10)])
    scores["l1"] = scores["l1"] * 100  # scale is nothing to it
    counts = allocations.create("lamp")(scores, density)
    assert counts == brute_lamp(scores, density)
    assert counts != allocations.create("global")(scores, density)


def test_lamp_by_hand():
    # a: 9/9, 4/13, 1/14 and b: 4/4, 4/8, 4/12, though b's are equal
    scores = {"a": torch.tensor([1.0, 3, 2]), "b": torch.tensor([2.0, 2, 2])}
    assert [allocations.create("lamp")(scores, k / 6) for k in (2, 3, 4, 5)] == [
        {"a": 1, "b": 1},
        {"a": 1, "b": 2},
        {"a": 1, "b": 3},
        {"a": 2, "b": 3},
    ]


def test_uniform_plus_by_hand():
    part = allocations.create("uniform_plus")
    shapes = {"a": (4, 2, 3, 3), "b": (10, 20), "c": (5, 10)}
    # 97 of 322: a is dense with 72, c has a fifth of 50, b the other 15
    assert part(zeros(**shapes), 0.3) == {"a": 72, "b": 15, "c": 10}
    # 161: 89 are left for 250, which is more than a fifth: 71.2 and 17.8
    assert part(zeros(**shapes), 0.5) == {"a": 72, "b": 71, "c": 18}
    halved = allocations.create("uniform_plus", first=0.5, last=0.1)
    assert halved(zeros(**shapes), 0.2) == {"a": 36, "b": 22, "c": 6}  # 28 of 250


def test_uniform_plus_spares_no_first_layer_that_is_no_convolution():
    part = allocations.create("uniform_plus")
    assert part(zeros(a=(10, 20), b=(5, 10)), 0.1) == {"a": 15, "b": 10}


def test_uniform_plus_goes_by_the_weights_shapes():
    entries, shapes = (
        zeros(a=(4,), b=(10,), c=(5,)),
        {"a": (4, 2, 3, 3), "b": (10, 4), "c": (5, 10)},
    )
    assert allocations.create("uniform_plus")(entries, 0.5, shapes) == {"a": 4, "b": 4, "c": 2}


def floor(scores: dict[str, Tensor], minimum: int) -> dict[str, int]:
    return {n: min(s.numel(), max(1, minimum * s.shape[0])) for n, s in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("minimum", [1, 3, 1000])
def test_a_minimum_leaves_the_total_and_no_layer_below_it(name, shapes, minimum):
    scores = network(shapes)
    least, checked = floor(scores, minimum), 0
    for density in DENSITIES:
        if impossible(name, scores, density):
            continue
        before = allocations.create(name)(scores, density)
        part = allocations.create(name, minimum=minimum)
        if sum(least.values()) > sum(before.values()):
            with pytest.raises(UsageError, match=f"minimum {minimum} keeps"):
                part(scores, density)
            continue
        counts = part(scores, density)
        assert sum(counts.values()) == sum(before.values())
        assert all(least[n] <= count <= scores[n].numel() for n, count in counts.items())
        assert all(counts[n] <= max(least[n], count) for n, count in before.items())
        checked += 1
    assert checked


def test_a_minimum_by_hand_is_paid_by_the_largest_layer():
    scores = zeros(a=(16, 3, 4, 4), b=(32, 16, 4, 4), c=(100, 2048), d=(10, 100))
    plain = {"a": 8, "b": 82, "c": 2048, "d": 10}
    assert allocations.create("uniform")(scores, 0.01) == plain
    counts = allocations.create("uniform", minimum=4)(scores, 0.01)
    assert counts == {"a": 64, "b": 128, "c": 400 + 1516, "d": 40}
    assert sum(counts.values()) == sum(plain.values())


def test_a_minimum_that_is_impossible_is_refused_with_a_remedy():
    with pytest.raises(
        UsageError, match=r"keeps 6 entries, and density 0\.1 leaves 3 of 30"
    ) as told:
        allocations.create("uniform", minimum=2)(zeros(a=(3, 10)), 0.1)
    density = float(str(told.value).split("density of ")[1].split()[0])
    assert allocations.create("uniform", minimum=2)(zeros(a=(3, 10)), density) == {"a": 6}


def one_by_one(counts: list[int], floors: list[int], total: int) -> list[int]:
    counts = [max(pair) for pair in zip(counts, floors, strict=True)]
    while sum(counts) > total:
        able = [count if count > low else 0 for count, low in zip(counts, floors, strict=True)]
        counts[able.index(max(able))] -= 1
    return counts


def test_raising_takes_from_the_largest_one_by_one():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        counts, floors = torch.randint(0, 12, (2, 5), generator=generator).tolist()
        total = max(sum(counts), sum(floors))
        if sum(map(max, counts, floors)) >= total:
            assert allocations.raised(counts, floors, total) == one_by_one(counts, floors, total)


def test_a_convolution_that_is_first_and_last_has_the_larger_of_the_two_densities():
    one = zeros(a=(2, 5, 1, 1))
    plus = allocations.create("uniform_plus", first=0.1, last=0.5)
    assert plus(one, 0.6) == {"a": 6}
    with pytest.raises(UsageError, match="leaves 3 of 10"):
        plus(one, 0.3)
