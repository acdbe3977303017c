from __future__ import annotations

import pytest

from robustprune.report.estimates import estimate, mean_interval

ONE = {"pgd": 0.5, "pgd_n": 100, "pgd_interval": [0.4, 0.62]}


def test_one_run_has_the_interval_over_its_images() -> None:
    found = estimate([ONE], "pgd")
    assert found is not None
    assert (found.value, found.low, found.high, found.images) == (0.5, 0.4, 0.62, 100)
    assert found.texts(fraction=True) == ("50.0", "(40.0–62.0)")
    assert found.texts(fraction=True, spread="std") == ("50.0", "")


def test_several_runs_have_a_mean_and_students_interval() -> None:
    runs = [ONE | {"pgd": value} for value in (0.5, 0.6, 0.7)]
    found = estimate(runs, "pgd")
    assert found is not None
    reach = 4.302652730 * 0.1 / 3**0.5  # t(0.975, 2 degrees of freedom), from a printed table
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.6 - reach, 0.6 + reach))
    assert found.each == (0.5, 0.6, 0.7)
    assert found.texts(fraction=True, spread="std") == ("60.0", "± 10.0")
    assert found.texts(fraction=True, spread="none") == ("60.0", "")


def test_the_interval_of_a_fraction_stays_a_fraction() -> None:
    assert mean_interval([0.0, 1.0]) == (0.0, 1.0)
    low, high = mean_interval([0.0, 1.0], fraction=False)
    assert (low, high) == pytest.approx((0.5 - 12.7062047 / 2, 0.5 + 12.7062047 / 2))


def test_a_run_without_the_metric_does_not_count() -> None:
    found = estimate([{"clean": 0.9}, ONE], "pgd")
    assert found is not None
    assert found.each == (0.5,)
    assert estimate([{"clean": 0.9}], "pgd") is None


def test_a_number_that_is_no_accuracy_has_no_interval() -> None:
    found = estimate([{"acr": 1.25, "acr_n": 7}], "acr")
    assert found is not None
    assert (found.low, found.high, found.images) == (1.25, 1.25, 7)
