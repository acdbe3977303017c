from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from robustprune.seeding import derive, fork


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_seeds_are_the_ones_that_recorded_runs_were_made_with() -> None:
    assert derive(0) == 3456079177858693020
    assert derive(0, "dense", "pretrain", 0) == 6961397214319100775


def test_seeds_depend_on_every_name_and_on_their_order_and_fit_every_generator() -> None:
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, "ab"), (0, "a", 1)]
    names += [(1, "1"), (11,), (0, "ab", "c"), (0, "a", "bc")]
    seeds = {derive(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_equal_names_draw_equally_and_others_otherwise() -> None:
    draws = []
    for names in (("a", 1), ("a", 1), ("a", 2)):
        draw()
        with fork(0, *names) as seed:
            draws.append(draw())
            assert seed == derive(0, *names)
    assert draws[0] == draws[1]
    assert all(one != other for one, other in zip(draws[0], draws[2], strict=True))


def test_the_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    def seeded() -> None:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    seeded()
    expected = draw()
    seeded()
    with fork(0, "x"), fork(0, "y"):
        draw()
    assert draw() == expected
    seeded()
    with pytest.raises(ZeroDivisionError), fork(0, "x"):
        _ = draw()[0] / 0
    assert draw() == expected
