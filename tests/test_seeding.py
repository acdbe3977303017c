from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from robustprune.seeding import derive, fork


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_seeds_are_the_ones_that_recorded_runs_were_made_with() -> None:
    assert derive(0) == 3456079177858693020
    assert derive(0, "dense", "pretrain", 0) == 6961397214319100775


def test_seeds_depend_on_every_name_and_on_their_order() -> None:
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, "ab"), (0, "a", 1)]
    assert len({derive(*name) for name in names}) == len(names)


def test_names_do_not_run_into_each_other() -> None:
    assert derive(1, "1") != derive(11)
    assert derive(0, "ab", "c") != derive(0, "a", "bc")


def test_seeds_fit_every_generator() -> None:
    seeds = [derive(number, "x") for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61
    torch.Generator().manual_seed(max(seeds))


def test_seeds_do_not_depend_on_the_process() -> None:
    code = "from robustprune.seeding import derive; print(derive(3, 'dense', 7))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == derive(3, "dense", 7)


def test_equal_names_draw_equally_and_others_otherwise() -> None:
    draws = []
    for names in (("a", 1), ("a", 1), ("a", 2)):
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


def test_what_is_drawn_inside_does_not_depend_on_what_was_drawn_before() -> None:
    with fork(0, "x"):
        first = draw()
    draw()
    with fork(0, "x"):
        assert draw() == first


def test_importing_seeding_imports_no_torch() -> None:
    code = "import sys, robustprune.seeding; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
