from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune.report.groups import differences, grouped
from robustprune.report.runs import Run, read_run
from robustprune.report.tables import comparison

from . import made


def one(path: Path, seed: int = 0, change: made.Change | None = None) -> Run:
    return read_run(made.folder(path, seed, files=False, change=change))


def _elsewhere(document: dict[str, Any]) -> None:
    document["params"]["compute"] |= {"device": "cuda", "threads": 8}
    document["params"]["data"]["root"] = "elsewhere"
    document["params"]["tracking"]["experiment"] = "other"
    document["params"]["evaluate"].reverse()


def _other_lr(document: dict[str, Any]) -> None:
    document["params"]["prune"]["optimizer"]["lr"] = 1.5


def _newer(document: dict[str, Any]) -> None:
    document["params"]["prune"]["later"] = None


def _sparsest_only(document: dict[str, Any]) -> None:
    document["params"]["prune"]["densities"] = [0.01]
    document["networks"] = [n for n in document["networks"] if n["density"] != 0.1]


def _cut(document: dict[str, Any]) -> None:
    document["max_steps"] = 1


def _without_smoothing(document: dict[str, Any]) -> None:
    document["params"]["evaluate"].pop()


def test_seeds_of_one_recipe_are_one_group(tmp_path: Path) -> None:
    runs = [one(tmp_path / "b", 2), one(tmp_path / "a", 1, _elsewhere)]
    (group,) = grouped(runs)
    assert (group.label, group.seeds) == ("tiny", "1, 2")
    assert group.at(0.1) == {"hydra": "hydra-0.1", "magnitude": "magnitude-0.1"}
    assert group.densities == [0.1, 0.01]


@pytest.mark.parametrize("change", [_other_lr, _cut, _without_smoothing])
def test_other_recipes_are_other_groups(change: made.Change, tmp_path: Path) -> None:
    groups = grouped([one(tmp_path / "a"), one(tmp_path / "b", 1, change)])
    assert [group.label for group in groups] == ["tiny (a)", "tiny (b)"]


def _called(name: str) -> made.Change:
    def change(document: dict[str, Any]) -> None:
        document["recipe"] = document["params"]["name"] = name

    return change


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["a-seed-0", "a-seed-1", "a-seed-2"], "a"),  # of --sweep seed=[0,1,2]
        (["a-seed-0-epochs-2", "a-seed-1-epochs-2", "a-seed-2-epochs-2"], "a-epochs-2"),
        (["a", "a-seed-1", "a-seed-2"], "a"),
        (["paper_first", "paper_second", "paper_third"], "paper"),
        (["x", "y", "z"], "x"),
    ],
)
def test_a_recipe_is_what_its_options_are_whatever_it_is_called(
    names: list[str], label: str, tmp_path: Path
) -> None:
    runs = [one(tmp_path / name, seed, _called(name)) for seed, name in enumerate(names)]
    (group,) = grouped(runs)
    assert (group.label, group.seeds) == (label, "0, 1, 2")
    assert differences({group.label: group.runs[0], "again": group.runs[0]}) == {}


def test_one_recipe_alone_keeps_its_name(tmp_path: Path) -> None:
    (group,) = grouped([one(tmp_path / "a", 3, _called("a-seed-3"))])
    assert group.label == "a-seed-3"


def test_one_seed_twice_makes_no_mean(tmp_path: Path) -> None:
    groups = grouped([one(tmp_path / "x" / "a"), one(tmp_path / "y" / "a")])
    assert [group.label for group in groups] == ["tiny (a) #1", "tiny (a) #2"]


def test_the_mean_is_over_the_seeds(tmp_path: Path) -> None:
    made.folder(tmp_path / "a", 0, files=False)
    made.folder(tmp_path / "b", 1, files=False, more=0.1)
    found = made.group(tmp_path / "a", tmp_path / "b").estimate("hydra-0.1", "pgd")
    assert found is not None
    assert found.each == pytest.approx((0.625, 0.725))
    assert found.value == pytest.approx(0.675)


def test_networks_of_several_recipes_stand_from_the_densest_on(tmp_path: Path) -> None:
    groups = grouped([one(tmp_path / "a", 0, _sparsest_only), one(tmp_path / "b")])
    names = dict.fromkeys(row[0] for row in comparison(groups).rows)
    assert list(names) == ["dense", "hydra-0.1", "hydra-0.01", "magnitude-0.1", "magnitude-0.01"]


def test_only_what_differs_is_a_difference(tmp_path: Path) -> None:
    runs = {"a": one(tmp_path / "a"), "b": one(tmp_path / "b", 1, _elsewhere)}
    assert differences(runs) == {}
    runs["c"] = one(tmp_path / "c", 0, _other_lr)
    assert differences(runs) == {"prune.optimizer.lr": {"10.0": ["a", "b"], "1.5": ["c"]}}


def test_an_option_that_an_older_version_did_not_know_is_no_difference(tmp_path: Path) -> None:
    runs = [one(tmp_path / "a"), one(tmp_path / "b", 1, _newer)]
    assert differences({run.name: run for run in runs}) == {}
    assert [group.label for group in grouped(runs)] == ["tiny"]


def test_an_evaluator_that_is_missing_is_one_difference(tmp_path: Path) -> None:
    runs = {"a": one(tmp_path / "a"), "b": one(tmp_path / "b", 0, _without_smoothing)}
    found = differences(runs)
    assert list(found) == ["evaluate.smoothing"]
    (whole, absent) = found["evaluate.smoothing"]
    assert absent == "absent"
    assert '"radius": 0.25' in whole


def _many(document: dict[str, Any]) -> None:
    more = [{"name": f"hydra-{d:g}", "density": d} for d in (0.9, 0.5, 0.05)]
    document["networks"] += more


def test_of_many_densities_the_ends_and_the_middle_are_shown(tmp_path: Path) -> None:
    group = grouped([one(tmp_path / "a", change=_many)])[0]
    assert group.densities == [0.9, 0.5, 0.1, 0.05, 0.01]
    assert group.few == [0.9, 0.1, 0.01]
    assert grouped([one(tmp_path / "b")])[0].few == [0.1, 0.01]


def _another(document: dict[str, Any]) -> None:
    _other_lr(document)
    for network in document["networks"]:
        network["name"] = network["name"].replace("magnitude", "aaa")
    numbers = {"hydra-0.1": 0.5, "hydra-zzz-0.1": 0.5}
    document["params"]["paper"] = {"source": "a paper", "metrics": {"pgd": numbers}}


def test_a_colour_means_one_thing_on_the_whole_page(tmp_path: Path) -> None:
    first, second = grouped([one(tmp_path / "a"), one(tmp_path / "b", change=_another)])
    assert first.styles == second.styles
    assert list(first.styles) == ["dense", "hydra", "magnitude", "aaa", "hydra-zzz"]
    assert list(second.styles_of(["hydra-zzz", "hydra"])) == ["hydra", "hydra-zzz"]
    assert second.styles_of(["hydra-zzz"])["hydra-zzz"] == second.styles["hydra-zzz"]
