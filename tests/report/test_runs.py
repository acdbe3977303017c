from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import UsageError
from robustprune.report.runs import read_run

from . import made


def test_a_whole_run_has_no_shortcomings(run: Path) -> None:
    found = read_run(run)
    assert (found.name, found.results.seed, found.shortcomings) == ("run", 0, [])
    assert [n.name for n in found.results.networks] == [net.name for net in made.NETS]


def test_a_lone_results_file_is_a_run_without_networks_files(tmp_path: Path, run: Path) -> None:
    path = tmp_path / "seed-0.json"
    path.write_bytes((run / "results.json").read_bytes())
    found = read_run(path)
    assert found.name == "seed-0"
    assert found.file("dense", "model.safetensors") is None
    assert found.history("dense") == []


def test_what_is_no_run_folder_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    made.folder(tmp_path / "first", files=False)
    with pytest.raises(UsageError, match=re.escape(f"Did you mean '{tmp_path / 'first'}'?")):
        read_run(tmp_path / "frist")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "first"))):
        read_run(tmp_path)


def test_where_no_run_is_near_it_is_said_what_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="A run writes one to runs/"):
        read_run(Path("none"))


def _nan(document: dict[str, Any]) -> None:
    document["networks"][0]["metrics"]["pgd"] = float("nan")


def _density(document: dict[str, Any]) -> None:
    document["networks"][0]["density"] = 2


def _no_networks(document: dict[str, Any]) -> None:
    del document["networks"]


def _paper(document: dict[str, Any]) -> None:
    document["params"]["paper"] = {"source": "a paper", "metrics": {"pgd": {"dense": 51.9}}}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (_nan, "networks.0.metrics.pgd"),
        (_density, "networks.0.density"),
        (_no_networks, "networks"),
        (_paper, "params.paper.metrics.pgd.dense"),
    ],
)
def test_a_results_file_of_another_shape_is_refused(
    change: made.Change, place: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"was not written by a run \({re.escape(place)}"):
        read_run(made.folder(tmp_path / "run", files=False, change=change))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_results_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError, match="was not written by a run"):
        read_run(tmp_path)


def test_no_file_outside_the_run_folder_is_read(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False)
    (tmp_path / "secret").write_text("x")
    (path / "dense").mkdir()
    (path / "dense" / "link").symlink_to(tmp_path / "secret")
    found = read_run(path)
    assert found.file("..", "secret") is None
    assert found.file("dense", "link") is None
    assert found.file("dense", "../results.json") == path / "dense" / "../results.json"


def test_a_damaged_history_is_told(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False)
    (path / "dense").mkdir()
    (path / "dense" / "history.json").write_text(json.dumps([{"stage": "prune"}]))
    with pytest.raises(UsageError, match=r"history.json was not written by a run \(0.epoch"):
        read_run(path).history("dense")


def _cut(document: dict[str, Any]) -> None:
    document["max_steps"] = 3


def _without_the_last(document: dict[str, Any]) -> None:
    document["networks"].pop()


def _only_dense(document: dict[str, Any]) -> None:
    document["networks"] = document["networks"][:1]
    methods = ["hydra", "magnitude", "random", "random"]
    document["params"]["prune"]["methods"] = [{"name": name} for name in methods]
    document["params"]["prune"]["methods"][-1]["label"] = "other"


def _unjudged(document: dict[str, Any]) -> None:
    del document["networks"][2]["metrics"]["pgd"]


def _alarmed(document: dict[str, Any]) -> None:
    alarm = {"certificate": "crown", "attack": "pgd", "images": [3, 5]}
    document["networks"][1]["alarms"] = [alarm]


@pytest.mark.parametrize(
    ("change", "words", "state"),
    [
        (_cut, "each stage was cut at 3 steps", "cut at 3 steps"),
        (_without_the_last, "it is unfinished: magnitude-0.01 not there", "unfinished"),
        (
            _only_dense,
            "magnitude-0.1, magnitude-0.01, random-0.1, random-0.01 and 2 more not",
            "unfinished",
        ),
        (_unjudged, "it is unfinished: hydra-0.01 not there", "unfinished"),
        (
            _alarmed,
            "SOUNDNESS ALARM for hydra-0.1: 'crown' verified and 'pgd' broke 2 images",
            "SOUNDNESS ALARM",
        ),
    ],
)
def test_what_is_less_than_a_whole_and_sound_run_is_told(
    change: made.Change, words: str, state: str, tmp_path: Path
) -> None:
    found = read_run(made.folder(tmp_path / "run", files=False, change=change))
    (told,) = found.shortcomings
    assert words in told
    assert found.unsound == (change is _alarmed)
    assert found.state == state


def test_a_run_that_goes_on_is_unfinished(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False)
    (path / "state").mkdir()
    (path / "state" / "run.json").write_text("{}")
    assert read_run(path).shortcomings == ["it is unfinished"]
    (path / "state" / "finished").write_text("")
    assert read_run(path).shortcomings == []


def test_a_finished_run_is_whole_though_a_metric_has_no_value_for_a_network(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_unjudged)
    (path / "state").mkdir()
    (path / "state" / "finished").write_text("")
    assert (read_run(path).state, read_run(path).finished) == ("complete", True)
