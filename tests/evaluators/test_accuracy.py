import json
import math

import pytest
import torch

from robustprune.evaluators.accuracy import interval, summarise


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (3, 10), (250, 1000), (10, 10)])
def test_wilson_interval_by_its_formula(correct, n):
    z, p = 1.959963984540054, correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert interval(correct, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_interval_as_printed_in_tables():
    assert interval(3, 10) == pytest.approx((0.1078, 0.6032), abs=5e-5)


def test_booleans_are_fractions_with_an_interval():
    metrics = summarise({"pgd": torch.tensor([True, True, False])})
    assert metrics["pgd"] == pytest.approx(2 / 3)
    assert metrics["pgd_n"] == 3
    assert metrics["pgd_interval"] == list(interval(2, 3))


def test_medians_are_over_finite_entries():
    norms = torch.tensor([3.0, float("inf"), float("nan"), 1.0, 2.0, 10.0])
    assert summarise({"norm": norms}) == {"norm": 2.5, "norm_n": 4}


def test_a_median_of_nothing_is_left_out():
    metrics = summarise({"cw": torch.tensor([True]), "cw_norm": torch.tensor([math.inf])})
    assert set(metrics) == {"cw", "cw_n", "cw_interval"}
    json.dumps(metrics, allow_nan=False)


def test_integers_are_for_the_table_of_images_only():
    assert summarise({"samples": torch.tensor([100, 200])}) == {}


def test_no_entries_no_metrics():
    assert summarise({}) == {}
