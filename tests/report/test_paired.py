"""Paired differences against SciPy's and statsmodels' own tests, and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from robustprune.errors import UsageError
from robustprune.report.groups import Group, grouped
from robustprune.report.paired import Paired, holm, mcnemar, paired, paired_records, paired_sheet
from robustprune.report.paired import paired_t as t_test
from robustprune.report.runs import read_run

from . import made


def tables(count: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """What two methods did to each image, for some seeds: ``(seeds, images)``, true or false."""
    draw = np.random.default_rng(0)
    shapes = [(int(draw.integers(2, 8)), int(draw.integers(20, 200))) for _ in range(count)]
    return [(draw.random(s) < draw.uniform(0.3, 1), draw.random(s) < 0.6) for s in shapes]


def as_pair(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> Paired:
    gains = ours.mean(1) - theirs.mean(1)
    wins = ours.astype(int) - theirs.astype(int)
    return Paired({}, True, dict(enumerate(gains.tolist())), dict(enumerate(wins)))


def test_tests_agree_with_scipy_on_a_hundred_tables() -> None:
    for ours, theirs in tables(100):
        pair = as_pair(ours, theirs)
        expected = stats.ttest_rel(ours.mean(1), theirs.mean(1))
        assert pair.over_seeds == pytest.approx(expected.pvalue)
        assert pair.mean / (pair.error or 0) == pytest.approx(expected.statistic)
        for seed, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            better, worse, p = pair.over_images(seed) or (0, 0, 0)
            assert (better, worse) == (np.sum(one & ~two), np.sum(two & ~one))
            tail = stats.binom.cdf(min(better, worse), better + worse, 0.5)
            assert p == pytest.approx(min(1, 2 * tail))


def test_tests_agree_with_statsmodels_on_a_hundred_tables() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    over_seeds = []
    for ours, theirs in tables(100):
        pair = as_pair(ours, theirs)
        expected = weightstats.DescrStatsW(list(pair.differences.values())).ttest_mean(0)[1]
        assert pair.over_seeds == pytest.approx(expected)
        over_seeds.append(pair.over_seeds)
        both = [[np.sum(ours[0] & theirs[0]), np.sum(ours[0] & ~theirs[0])],
                [np.sum(~ours[0] & theirs[0]), np.sum(~ours[0] & ~theirs[0])]]  # fmt: skip
        expected = contingency.mcnemar(both, exact=True).pvalue
        assert (pair.over_images(0) or ())[2] == pytest.approx(expected)
    assert holm(over_seeds) == pytest.approx(multitest.multipletests(over_seeds, method="holm")[1])


def test_holm_by_hand_and_without_a_value() -> None:
    assert holm([0.04, None, 0.01, 0.03]) == [pytest.approx(0.06), None, 0.03, pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_an_image_counts_once_however_many_seeds_there_are() -> None:
    ours = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]], bool)
    theirs = np.array([[0, 1, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]], bool)
    # 3 of 3 against 1; 2 against 3; 1 against 1; 2 against 1
    assert as_pair(ours, theirs).over_images() == (2, 1, 1.0)
    assert mcnemar(np.array([1] * 5)) == (5, 0, pytest.approx(2 / 32))
    assert mcnemar(np.zeros(3, int)) == (0, 0, 1.0)


def test_differences_that_do_not_vary_have_no_t_test() -> None:
    assert t_test([0.1]) is None
    assert t_test([0.7133 - 0.7, 0.7233 - 0.71]) is None  # equal but for rounding
    assert t_test([0.1, 0.2]) is not None


def better(gain: float) -> made.Change:
    def change(document: dict[str, Any]) -> None:
        document["networks"][2]["metrics"]["pgd"] += gain

    return change


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """Three seeds in which hydra-0.01 is better under pgd by 0.25, 0.375 and 0.5."""
    place = tmp_path_factory.mktemp("paired")
    paths = [made.folder(place / str(s), s, files=False, change=better(s / 8)) for s in range(3)]
    for net in made.NETS:
        for path in paths:
            (path / net.name).mkdir()
            made._images(path / net.name / "images.parquet", net)
    return made.group(*paths)


def test_runs_are_paired_by_seed_and_by_image(group: Group) -> None:
    pairs = {(p.names["density"], p.names["metric"]): p for p in paired([group], "magnitude")}
    assert set(pairs) == {(d, m) for d in (0.1, 0.01) for m in group.metrics}
    pgd = pairs[0.01, "pgd"]
    assert pgd.differences == {0: 0.25, 1: 0.375, 2: 0.5}
    assert pgd.error == pytest.approx(0.125 / 3**0.5)
    assert pgd.over_seeds == pytest.approx(2 * stats.t.sf(0.375 / (0.125 / 3**0.5), 2))
    assert pgd.over_images(0) == pgd.over_images() == (2, 0, 0.5)
    assert pairs[0.1, "pgd_0.2"].over_images() == (1, 0, 1.0)
    assert pairs[0.01, "smoothing"].over_images() is None  # the table has radii only
    (row,) = paired_sheet([pgd]).lines()
    assert row[:4] == ["0.01", "hydra", "pgd", "+37.5 ± 7.2"]
    assert row[7:] == ["2:0", "0.500", "0.500"]
    whole, *seeds = paired_records([pgd])
    assert (whole["seed"], whole["difference"], whole["better"]) == ("all", 0.375, 2)
    assert [(one["seed"], one["difference"]) for one in seeds] == list(pgd.differences.items())
    assert all(one.keys() == whole.keys() for one in seeds)


def test_every_network_is_paired_with_the_dense_one(group: Group) -> None:
    found = {(p.names["method"], p.names["density"]): p for p in paired([group], "dense", ["pgd"])}
    assert len(found) == 4
    assert found["magnitude", 0.1].mean == pytest.approx(-0.125)
    assert found["magnitude", 0.1].over_images() == (0, 1, 1.0)


def test_a_baseline_that_is_not_there_is_told(group: Group) -> None:
    with pytest.raises(UsageError, match=r"'magnitud'.*Did you mean 'magnitude'"):
        paired([group], "magnitud")
    with pytest.raises(UsageError, match="no network of these runs has a number 'pdg'"):
        paired([group], "magnitude", ["pdg"])


def _other_eps(document: dict[str, Any]) -> None:
    document["params"]["evaluate"][1]["eps"] = 0.3


def _other_sigma(document: dict[str, Any]) -> None:
    document["params"]["evaluate"][3]["sigma"] = 0.5
    _radii(document)


def _radii(document: dict[str, Any]) -> None:
    for network in document["networks"]:
        network["metrics"] |= {"smoothing_acr": 0.2, "smoothing_acr_n": 4}


def _other_lr(document: dict[str, Any]) -> None:
    document["params"]["prune"]["optimizer"]["lr"] = 1.5


def _fewer(document: dict[str, Any]) -> None:
    _other_lr(document)
    for network in document["networks"]:
        network["metrics"]["pgd_n"] = 4


def _other_set(document: dict[str, Any]) -> None:
    _other_lr(document)
    document["datasets"] = [{"context": "test", "digest": "b"}]


def _this_set(document: dict[str, Any]) -> None:
    document["datasets"] = [{"context": "test", "digest": "a"}]


def two(place: Path, change: made.Change) -> list[Group]:
    paths = [made.folder(place / "a", files=False, change=_this_set)]
    paths.append(made.folder(place / "b", files=False, change=change))
    return grouped([read_run(path) for path in paths])


def test_a_recipe_can_be_the_baseline(tmp_path: Path) -> None:
    groups = two(tmp_path, _other_lr)
    found = paired(groups, groups[0].label, ["clean"])
    assert [p.names["method"] for p in found] == ["dense", *["hydra", "magnitude"] * 2]
    assert {p.names["recipe"] for p in found} == {groups[1].label}
    assert {p.mean for p in found} == {0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_fewer, r"b/dense and of .*a/dense is about different images \(4 and 8 of them\)"),
        (_other_set, "of another test set"),
        (_other_eps, "'eps' is 0.3 and 0.1"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(
    change: made.Change, words: str, tmp_path: Path
) -> None:
    groups = two(tmp_path, change)
    with pytest.raises(UsageError, match=words):
        paired(groups, groups[0].label, ["pgd"])


def _norms(document: dict[str, Any]) -> None:
    for place, network in enumerate(document["networks"]):  # of as many images as were fooled
        network["metrics"] |= {"pgd_norm_median": 0.1 * place, "pgd_norm_median_n": 1 + place}


def test_a_median_of_those_images_that_have_one_is_about_all_that_were_judged(
    tmp_path: Path,
) -> None:
    group = made.group(made.folder(tmp_path / "a", files=False, change=_norms))
    (pair, _) = paired([group], "magnitude", ["pgd_norm_median"])
    assert (pair.fraction, pair.mean) == (False, pytest.approx(-0.2))


def test_what_stands_beside_an_accuracy_is_paired_where_its_evaluator_is_the_same(
    tmp_path: Path,
) -> None:
    paths = [made.folder(tmp_path / "a", files=False, change=_radii)]
    paths.append(made.folder(tmp_path / "b", files=False, change=_other_sigma))
    groups = grouped([read_run(path) for path in paths])
    with pytest.raises(UsageError, match=r"'smoothing\w*' is not the same .* 'sigma' is"):
        paired(groups, groups[0].label, ["smoothing_acr"])


def test_images_with_other_labels_are_others(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "a", files=False)
    for net in made.NETS:
        (path / net.name).mkdir()
        made._images(path / net.name / "images.parquet", net)
    file = path / "hydra-0.1" / "images.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "label", pa.array([1] * 10)), file)
    with pytest.raises(UsageError, match="with other labels"):
        paired([made.group(path)], "magnitude", ["pgd"])
