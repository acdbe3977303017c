"""Networks that give one answer whatever they are shown are flagged wherever numbers are shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune import evaluators
from robustprune.datasets.source import TensorSource
from robustprune.masking import MaskedModel
from robustprune.pipeline import RunResult
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.sanity import find_dead
from robustprune.report import write_report
from robustprune.report.groups import grouped
from robustprune.report.runs import read_run
from robustprune.report.tables import comparison, metrics_table
from robustprune.tracking import Console, final_metrics

from ..cli.conftest import Command, command, here  # noqa: F401
from . import tiny

pytestmark = pytest.mark.slow


CPU = torch.device("cpu")


class Answers(nn.Module):
    """Answers each image's first pixel, as a class."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        return nn.functional.one_hot((images[:, 0, 0, 0] * 9).long(), 10).float()


def ask(answers: list[int], labels: list[int], *samples: int | None) -> tuple[Any, Answers]:
    images = torch.tensor(answers).view(-1, 1, 1, 1) / 9 + 1e-3
    model = Answers()
    subject = Subject(model, TensorSource(images, torch.tensor(labels)), network="n", seed=0)
    parts = [evaluators.create("clean", label=f"c{i}", samples=n) for i, n in enumerate(samples)]
    return find_dead(subject, parts, device=CPU), model


@pytest.mark.parametrize(
    ("answers", "labels", "samples", "found"),
    [
        ([3] * 8, [0, 1] * 4, [None], {"answer": 3, "images": 8}),
        ([3] * 7 + [4], [0, 1] * 4, [None], None),
        ([3] * 7 + [4], [0, 1] * 4, [5], {"answer": 3, "images": 5}),
        ([3] * 7 + [4], [0, 1] * 4, [5, 8], None),
        ([3] * 8, [3] * 8, [None], None),  # nothing else could be right
        ([3] * 8, [0, 1] * 4, [1], None),
        ([3] * 8, [0, 1] * 4, [], None),
        ([3] * 8, [0, 1] * 4, [100], {"answer": 3, "images": 8}),
    ],
)
def test_it_is_decided_by_what_is_judged(
    answers: list[int], labels: list[int], samples: list[int | None], found: Any
) -> None:
    assert ask(answers, labels, *samples)[0] == found


def test_a_living_network_costs_one_batch() -> None:
    found, model = ask([1, 2] * 400, [0, 1] * 400, None)
    assert (found, model.batches) == (None, 1)
    found, model = ask([1] * 800, [0, 1] * 400, None)
    assert (found["images"], model.batches) == (800, 4)


def kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each pruned network answer class 4: all of it is 0 but for that bias."""
    original = MaskedModel.bake

    def bake(masked: MaskedModel) -> Any:
        masks = original(masked)
        with torch.no_grad():
            for name, parameter in masked.model.named_parameters():
                parameter.zero_()
                if name == "5.bias":
                    parameter[4] = 1
        return masks

    monkeypatch.setattr(MaskedModel, "bake", bake)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunResult]:
    """A run whose pruned network answers class 4, recorded in MLflow."""
    tracking = {"tracking": {"enabled": True, "experiment": "trial", "report": False}}
    evaluate = {"evaluate": tiny.RECIPE["evaluate"]}
    with pytest.MonkeyPatch.context() as patch:
        kill(patch)
        folder = tmp_path_factory.mktemp("killed") / "run"
        yield tiny.go(folder, tiny.SMALL, evaluate, tracking, max_steps=2)


def test_its_entry_and_its_row_say_so(killed: RunResult) -> None:
    entry = killed.network("hydra-0.1")
    assert entry["dead"] == {"answer": 4, "images": 100}
    assert "dead" not in killed.network("dense")
    assert tiny.results(killed.folder)["networks"] == killed.networks
    _, rows = killed.table()
    assert [["(dead)" in cell for cell in row[4:]] for row in rows] == [[False] * 2, [True] * 2]
    assert "dead: one answer for all images" in killed.legend


def test_mlflow_says_so(killed: RunResult) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{killed.folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trial").experiment_id
    runs = {
        run.data.tags.get("network", run.info.run_name): run
        for run in client.search_runs([experiment])
    }
    assert runs["hydra-0.1"].data.metrics["final/dead"] == 1
    assert runs["hydra-0.1"].data.tags["dead"] == "class 4 for all 100 images"
    assert "dead network" in runs["hydra-0.1"].data.tags["mlflow.note.content"]
    assert "dead" not in runs["dense"].data.tags
    assert "final/dead" not in runs["dense"].data.metrics
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert "final/dead" in final_metrics(killed.network("hydra-0.1"))


def test_the_report_and_compare_say_so(
    killed: RunResult, tmp_path: Path, command: Command,  # noqa: F811
) -> None:  # fmt: skip
    text = write_report([killed.folder], tmp_path / "a.html").read_text()
    words = "hydra-0.1 is dead: it answers class 4 for all 100 images"
    assert words in text
    assert "hydra-0.1 (dead)" in text
    assert any(words in text for text in read_run(killed.folder).shortcomings)
    said = command("compare", killed.folder)
    assert "hydra-0.1 (dead)" in said.out
    assert words in said.err


def test_a_judged_file_says_so(
    killed: RunResult, command: Command, here: Path  # noqa: F811
) -> None:  # fmt: skip
    file = killed.folder / "hydra-0.1" / "model.safetensors"
    said = command("evaluate", file, "--evaluator", "clean", "--json", "a.json")
    assert said.code == 0
    assert "warning: hydra-0.1 is dead: it answers class 4 for all" in said.err
    assert '"answer": 4' in (here / "a.json").read_text()
    said = command("evaluate", killed.folder / "dense" / "model.safetensors", "--samples", "90")
    assert "is dead" not in said.err


def test_a_mean_says_of_how_many(killed: RunResult, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(killed.folder, other)
    document = tiny.results(other)
    document["seed"] = document["params"]["seed"] = 1
    del document["networks"][1]["dead"]
    (other / "results.json").write_text(json.dumps(document))
    (group,) = grouped([read_run(killed.folder), read_run(other)])
    for table in (metrics_table(group), comparison([group])):
        assert [row[0] for row in table.rows] == ["dense", "hydra-0.1 (1 dead)"]


def test_it_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(monkeypatch)
    told: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", told.append)
    evaluate = {"evaluate": [{"name": "clean", "samples": 50}]}
    tiny.go(tmp_path / "run", tiny.SMALL, evaluate, max_steps=1, console=console)
    assert any(text.startswith("hydra-0.1 is dead: it answers class 4 for all 50") for text in told)
