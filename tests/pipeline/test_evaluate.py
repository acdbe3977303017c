"""A network evaluated by itself, and from its file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.datasets.source import TensorSource
from robustprune.errors import UsageError
from robustprune.evaluators import Evaluator, create
from robustprune.evaluators.accuracy import Metrics
from robustprune.measures import registry as measures
from robustprune.pipeline import RunResult
from robustprune.pipeline.evaluate import Evaluation, evaluate, evaluate_saved, judge, parts_of
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.images import ImageTable
from robustprune.tracking import Console
from robustprune.types import Threat

from . import liars, tiny

QUIET = Console(quiet=True)


def evaluated(saved: SavedModel, *, seed: int | None = None, **changes: Any) -> Evaluation:
    data, evaluators = parts_of(saved.metadata, **changes)
    tasks = {"a file": (saved, data, evaluators)}
    return evaluate_saved(tasks, seed=seed, console=QUIET)["a file"]


def judged(saved: SavedModel, *, seed: int | None = None, **changes: Any) -> dict[str, Any]:
    return evaluated(saved, seed=seed, **changes).metrics


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
    found = evaluated(saved)
    written = ImageTable.read(folder / "hydra-0.1" / "images.parquet", ["clean", "pgd"])
    assert found.images.arrow().equals(written.arrow())
    assert found.images.entries("clean")["clean"].double().mean() == found.metrics["clean"]
    assert found.alarms == []


@pytest.mark.slow
def test_samples_and_other_evaluators(saved: SavedModel, finished: RunResult) -> None:
    assert judged(saved, samples=10, batch_size=3)["pgd_n"] == 10
    assert {part.batch_size for part in parts_of(saved.metadata, batch_size=3)[1]} == {3}
    metrics = judged(saved, evaluators=[{"name": "pgd", "label": "weak", "eps": "1/255"}])
    assert metrics.keys() == {"weak", "weak_n", "weak_interval"}
    assert metrics["weak_n"] == 360
    assert metrics["weak"] > finished.network("hydra-0.1")["metrics"]["pgd"] - 0.2


class Seeds(Evaluator):
    """Tells its seed as a median, and counts the batches."""

    batch_size: int = 100
    batches: ClassVar[int] = 0

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        Seeds.batches += 1
        return {self.metric: torch.full((len(images),), float(seed))}


def test_the_seed_is_the_recipes_unless_another_is_given(saved: SavedModel) -> None:
    def seed(**changes: Any) -> Any:
        documents = [{"name": "seeds", "samples": 10}]
        return judged(saved, evaluators=documents, **changes)["seeds"]

    with liars.registered(seeds=Seeds):
        saved.metadata["seed"] = 3
        assert seed() == seed() == seed(seed=3) != seed(seed=7)


def test_several_networks_are_checked_before_any_is_judged(saved: SavedModel, folder: Path) -> None:
    with liars.registered(seeds=Seeds):
        good, bad = (
            (read_model(folder / "dense" / "model.safetensors"), *parts_of(
                saved.metadata, data=data, evaluators=[{"name": "seeds", "samples": 250}]))
            for data in ("digits", {"name": "mnist", "download": False, "root": folder})
        )  # fmt: skip
        Seeds.batches = 0
        found = evaluate_saved({"one": good, "two": good}, console=QUIET)
        assert found["one"].metrics == found["two"].metrics
        assert Seeds.batches == 6
        with pytest.raises(UsageError, match=r"two: .*mnist"):
            evaluate_saved({"one": good, "two": bad}, console=QUIET)
        assert Seeds.batches == 6


def test_measures_are_taken_beside_or_alone(saved: SavedModel, finished: RunResult) -> None:
    data, _ = parts_of(saved.metadata)
    parts = [measures.create("size"), measures.create("flops")]
    found = evaluate_saved({"a": (saved, data, [])}, console=QUIET, measures=parts)["a"]
    assert found.metrics == {}
    assert found.measures == finished.network("hydra-0.1")["measures"]


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
    data, _ = parts_of(saved.metadata)
    monkeypatch.setattr(type(data), "image_size", 28)
    with pytest.raises(UsageError, match=r"model 'cnn_digits' does not take.*1×28×28"):
        judged(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digit"}, "Did you mean 'digits'"),
        ({"evaluators": [{"name": "pdg"}]}, "Did you mean 'pgd'"),
        ({"evaluators": [{"name": "pgd", "epsilon": 1}]}, "Did you mean 'eps'"),
        (
            {"evaluators": [{"name": "pgd", "label": "index"}]},
            "'index' is the name of a column",
        ),
        ({"root": Path("somewhere")}, "digits' comes with scikit-learn"),
    ],
)
def test_wrong_names_and_options(saved: SavedModel, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts_of(saved.metadata, **changes)


LABELS = torch.tensor([0, 1, 1, 0, 1])


class Says(Evaluator):
    """Gives what it is told to, cut to the batch."""

    values: Any

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        return {self.metric: self.values[: len(images)], "labels": labels}


class Sums(Says):
    """Makes numbers of its own of what it gave."""

    def summarise(self, images: dict[str, Tensor]) -> Metrics:
        return {f"{self.metric}_sum": int(images["labels"].sum())}


class Promises(Says):
    """Claims a ball."""

    @property
    def claims(self) -> Threat:
        return Threat("linf", 0.1)


CPU: Any = {"device": torch.device("cpu"), "console": QUIET}


def said(part: type[Evaluator], values: Tensor) -> Evaluation:
    test = TensorSource(torch.zeros(5, 1, 2, 2), LABELS)
    with liars.registered(says=part):
        evaluator = create("says", values=values, batch_size=2, samples=5)
    return evaluate(Subject(nn.Flatten(), test, network="dense", seed=0), [evaluator], **CPU)


def test_batches_are_joined_with_their_labels() -> None:
    found = said(Says, torch.tensor([True, False]))
    entries = found.images.entries("says")
    assert found.images.labels.tolist() == LABELS.tolist()
    assert entries["says"].tolist() == [True, False, True, False, True]
    assert entries["labels"].tolist() == LABELS.tolist()
    assert found.metrics["says"] == 3 / 5
    assert "labels" not in found.metrics


def test_what_is_in_the_table_is_not_judged_again(tmp_path: Path) -> None:
    table, told = tmp_path / "images.parquet", list[list[str]]()
    test = TensorSource(torch.rand(250, 1, 2, 2), torch.arange(250) % 4)
    subject = Subject(nn.Flatten(), test, network="dense", seed=0)
    where: Any = {"kept": lambda metric: tmp_path / "kept" / metric, "table": table, **CPU}
    with liars.registered(seeds=Seeds):
        parts = [create("clean"), create("seeds")]
    before = Seeds.batches
    first = evaluate(
        subject, parts, after=lambda found: told.append([*found.images.evaluators]), **where
    )
    assert [len(names) for names in told] == [1, 2]
    assert Seeds.batches == before + 3
    assert list((tmp_path / "kept").iterdir()) == []
    again = evaluate(subject, parts, **where)
    assert (again.metrics, Seeds.batches) == (first.metrics, before + 3)
    table.unlink()
    assert evaluate(subject, parts, **where).metrics == first.metrics
    assert Seeds.batches == before + 6


def test_an_evaluator_may_summarise_in_its_own_way() -> None:
    assert said(Sums, torch.tensor([True, False])).metrics == {"says_sum": 3}


def test_one_value_an_image_is_demanded() -> None:
    with pytest.raises(
        TypeError, match=r"'says': judge must give one value an image, shape \(2,\)"
    ):
        said(Says, torch.tensor([True]))


def test_who_claims_a_ball_must_say_yes_or_no() -> None:
    with pytest.raises(TypeError, match="'says' must be boolean; got"):
        said(Promises, torch.tensor([0.5, 0.25]))


def test_without_test_images_there_is_no_verdict() -> None:
    with pytest.raises(UsageError, match="no test images"):
        judge(Says(values=0), Subject(nn.Identity(), None, network="", seed=0), **CPU)
