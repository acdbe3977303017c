"""A network judged from its file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from robustprune.evaluators import Evaluator
from robustprune.pipeline import RunResult
from robustprune.pipeline.evaluation import evaluate, parts_of
from robustprune.pipeline.images import ImageTable
from robustprune.pipeline.judge import Verdict
from robustprune.pipeline.progress import Subject
from robustprune.tracking import Console

from . import tiny


def judged(saved: SavedModel, *, seed: int | None = None, **changes: Any) -> dict[str, Any]:
    data, evaluators = parts_of(saved.metadata, **changes)
    return evaluate(saved, data, evaluators, seed=seed, console=Console(quiet=True)).metrics


@pytest.fixture
def saved(folder: Path) -> SavedModel:
    return read_model(folder / "hydra-0.1" / "model.safetensors")


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_the_metrics_of_the_run_are_reproduced(
    finished: RunResult, folder: Path, name: str
) -> None:
    saved = read_model(folder / name / "model.safetensors")
    assert judged(saved) == finished.network(name)["metrics"]


def test_the_images_of_the_run_are_reproduced(saved: SavedModel, folder: Path) -> None:
    data, evaluators = parts_of(saved.metadata)
    found = evaluate(saved, data, evaluators, seed=None, console=Console(quiet=True))
    written = ImageTable.read(folder / "hydra-0.1" / "images.parquet", ["clean", "pgd"])
    assert found.images.arrow().equals(written.arrow())
    assert found.images.entry("clean").double().mean() == found.metrics["clean"]
    assert found.alarms == []


def test_samples_and_other_evaluators(saved: SavedModel, finished: RunResult) -> None:
    assert judged(saved, samples=10)["pgd_n"] == 10
    metrics = judged(saved, evaluators=[{"name": "pgd", "label": "weak", "eps": "1/255"}])
    assert metrics.keys() == {"weak", "weak_n", "weak_interval"}
    assert metrics["weak_n"] == 360
    assert metrics["weak"] > finished.network("hydra-0.1")["metrics"]["pgd"] - 0.2


def test_the_seed_is_the_recipes_unless_another_is_given(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def judge(evaluator: Evaluator, subject: Subject, **options: Any) -> Verdict:
        assert subject.network == "hydra-0.1"
        seeds.append(subject.seed)
        right = torch.ones(1, dtype=torch.bool)
        return Verdict({}, torch.zeros(1, dtype=torch.int64), {evaluator.metric: right})

    monkeypatch.setattr("robustprune.pipeline.evaluation.judge", judge)
    saved.metadata["seed"] = 3
    judged(saved)
    judged(saved, seed=7)
    assert seeds == [3, 3, 7, 7]


def test_without_evaluators_in_the_file_accuracy_is_shown(saved: SavedModel) -> None:
    del saved.metadata["evaluate"]
    assert judged(saved).keys() == {"clean", "clean_n", "clean_interval"}


def test_a_file_without_a_dataset_needs_one(saved: SavedModel) -> None:
    del saved.metadata["data"]
    with pytest.raises(UsageError, match=r"names no dataset; name one with --data.*digits"):
        parts_of(saved.metadata)
    assert judged(saved, data="digits", samples=10)["clean_n"] == 10


def test_data_that_is_gone_is_named_with_the_remedy(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved.metadata["data"] = {"name": "mnist", "download": False}
    with pytest.raises(UsageError, match="mnist") as caught:
        judged(saved)
    assert str(tmp_path / "data" / "mnist") in str(caught.value)
    assert "--root" in str(caught.value)


def test_another_root_is_looked_into(saved: SavedModel, tmp_path: Path) -> None:
    saved.metadata["data"] = {"name": "mnist", "download": False}
    with pytest.raises(UsageError, match=str(tmp_path / "elsewhere")):
        judged(saved, root=tmp_path / "elsewhere")


def test_images_of_another_kind_are_refused(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, evaluators = parts_of(saved.metadata)
    monkeypatch.setattr(type(data), "image_size", 28)
    with pytest.raises(UsageError, match=r"model 'cnn_digits' does not take.*1×28×28"):
        evaluate(saved, data, evaluators, seed=None, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digit"}, "Did you mean 'digits'"),
        ({"evaluators": [{"name": "pdg"}]}, "Did you mean 'pgd'"),
        ({"evaluators": [{"name": "pgd", "epsilon": 1}]}, "Did you mean 'eps'"),
        ({"evaluators": [{"name": "pgd", "label": "index"}]}, "label 'index' is the name of a col"),
        ({"root": Path("somewhere")}, "digits' comes with scikit-learn"),
    ],
)
def test_wrong_names_and_options(saved: SavedModel, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts_of(saved.metadata, **changes)
