"""Evaluation on sparse copies: of which networks, by whom, and what is recorded of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune import evaluators, kernels
from robustprune.datasets.source import TensorSource
from robustprune.errors import InterruptedRun, UsageError
from robustprune.pipeline import sparse as copies
from robustprune.pipeline.evaluate import Evaluation, create_part, evaluate
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.plan import plan
from robustprune.shard import Shard
from robustprune.tracking import Console

from ..test_shard import each
from . import tiny
from .copies import Made, Stop

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
ON = {"compute": {"sparse": "on"}}
PRUNED = {"prune": {"methods": ["magnitude"], "densities": [0.1], "epochs": None}}


def network(density: float, features: int = 400) -> nn.Module:
    layer, random = nn.Linear(features, 300), torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight += torch.where(layer.weight < 0, -1e-3, 1e-3)  # none is zero by chance
        layer.weight[torch.rand(layer.weight.shape, generator=random) >= density] = 0
    return nn.Sequential(nn.Flatten(), layer).eval()


def of_several_types() -> nn.Module:
    model = network(0.2)
    model[1].register_parameter("odd", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    return model


def with_buffer() -> nn.Module:
    model = network(0.2)
    model[1].register_buffer("odd", torch.zeros(1, dtype=torch.float64))
    return model


def judged(
    model: nn.Module, *names: Any, images: int = 100, sparse: str = "auto", **options: Any
) -> Evaluation:
    side = int((model[1].in_features) ** 0.5)  # type: ignore[index,union-attr,operator,arg-type]
    torch.manual_seed(0)
    test = TensorSource(torch.rand(images, 1, side, side), torch.arange(images) % 300)
    documents = [{"name": name} if isinstance(name, str) else name for name in names]
    parts = [create_part("evaluators", document) for document in documents]
    usual: dict[str, Any] = {"device": torch.device("cpu"), "console": QUIET}
    subject = Subject(model, test, network="n", seed=0)
    return evaluate(subject, parts, sparse=sparse, **(usual | options))


PGD = {"name": "pgd", "steps": 50, "batch_size": 40}


def test_a_large_network_of_which_little_is_kept_is_attacked_through_kernels(made: Made) -> None:
    found = judged(network(0.2), "clean", PGD, {"name": "smoothing", "n": 100})
    assert made.measured == [40, 100]
    assert found.sparse == [
        {"batch": 40, "evaluators": ["pgd"], "choices": {"number": 1}},
        {"batch": 100, "evaluators": ["smoothing"], "choices": {"number": 2}},
    ]
    assert found.entry["sparse"] == found.sparse


def test_what_kernels_are_not_for_any_more_is_judged_as_it_is_whatever_is_recorded(
    tmp_path: Path, made: Made
) -> None:
    record, model = tmp_path / "choices.json", network(0.2)
    on = judged(model, "clean", PGD, sparse="on", choices=record)
    assert len(on.sparse) == 2
    off = judged(model, "clean", PGD, sparse="off", choices=record)
    plain = judged(model, "clean", PGD, sparse="off")
    assert (off.sparse, off.metrics) == ([], plain.metrics)
    auto = judged(model, "clean", PGD, choices=record)  # clean images alone are soon judged
    assert [entry["evaluators"] for entry in auto.sparse] == [["pgd"]]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (network(0.3), {}),
        (network(0.2, features=256), {}),
        (network(0.2), {"images": 99}),
        (network(0.2), {"sparse": "off"}),
        (of_several_types(), {"sparse": "on"}),
        (with_buffer(), {}),
        (network(1), {"sparse": "on"}),
    ],
    ids=["dense", "small", "soon done", "off", "another type", "a buffer's", "nothing to skip"],
)
def test_others_are_judged_as_they_are(
    made: Made, model: nn.Module, changes: dict[str, Any]
) -> None:
    found = judged(model, PGD, **changes)
    assert (made.measured, found.sparse) == ([], [])
    assert "sparse" not in found.entry


def test_on_asks_for_it_whatever_the_size(made: Made) -> None:
    judged(network(0.9, features=16), {"name": "clean", "batch_size": 7}, images=5, sparse="on")
    assert made.measured == [5]


def test_evaluators_of_one_batch_size_share_a_copy(made: Made) -> None:
    found = judged(network(0.2), {**PGD, "label": "one"}, {**PGD, "label": "two"}, sparse="on")
    assert made.measured == [40]
    assert [entry["evaluators"] for entry in found.sparse] == [["one", "two"]]


def test_bounds_are_taken_of_the_network_itself(made: Made) -> None:
    model, names = network(0.2, features=16), ("clean", "ibp", "verified")
    off, on = (judged(model, *names, sparse=use) for use in ("off", "on"))
    assert [entry["evaluators"] for entry in on.sparse] == [["clean"]]
    for name in ("ibp", "verified"):
        assert torch.equal(on.images.entries(name)[name], off.images.entries(name)[name])


def test_an_evaluator_of_somebody_else_s_gets_the_network_itself(made: Made) -> None:
    given = []

    class Own(evaluators.Evaluator):
        registered_name = "own"

        def judge(self, model: nn.Module, images: Tensor, labels: Tensor, **more: Any) -> Any:
            given.append(model)
            return {"own": labels == labels}

    model = network(0.2)
    test = TensorSource(torch.rand(4, 1, 20, 20), torch.arange(4))
    subject = Subject(model, test, network="n", seed=0)
    evaluate(subject, [Own()], sparse="on", device=torch.device("cpu"), console=QUIET)
    assert given == [model]
    assert not made.measured


def test_choices_are_recorded_and_used_again(made: Made, tmp_path: Path) -> None:
    model, where = network(0.2), {"choices": tmp_path / "new" / "choices.json"}
    first = judged(model, PGD, **where)
    assert json.loads(where["choices"].read_text())["entries"] == first.sparse
    again = judged(model, PGD, {**PGD, "label": "more"}, **where)
    assert made.measured == [40]
    assert again.sparse == [{**first.sparse[0], "evaluators": ["pgd", "more"]}]
    other = judged(network(0.1), PGD, **where)
    assert other.sparse[0]["choices"] == {"number": 2}


def test_readers_are_told_the_layers_by_name() -> None:
    choices = {"few": 3, "layers": {"a": {"sparse": True, "ms": 1.5}, "b": {"sparse": False}}}
    assert copies.shortened(choices) == {"few": 3, "layers": ["a"]}
    stage = {"attacks": choices, "layers": ["b"]}
    assert copies.shortened(stage) == {"attacks": {"few": 3, "layers": ["a"]}, "layers": ["b"]}
    assert copies.shortened({"reason": "none gains"}) == {"reason": "none gains"}


@pytest.mark.parametrize("text", ["", "[]", '{"entries": 1}'])
def test_a_damaged_record_counts_for_nothing(made: Made, tmp_path: Path, text: str) -> None:
    path = tmp_path / "choices.json"
    path.write_text(text)
    assert judged(network(0.2), PGD, choices=path).sparse[0]["choices"] == {"number": 1}


def test_all_processes_compute_by_the_choices_of_one(made: Made) -> None:
    model = network(0.2)
    alone = judged(model, {"name": "clean", "batch_size": 9}, sparse="on")
    made.numbers = itertools.count(1)
    made.measured.clear()

    def work(shard: Shard) -> tuple[Any, list[bool]]:
        test = TensorSource(torch.rand(20, 1, 20, 20), torch.arange(20))
        subject = Subject(model, test, network="n", seed=0)
        clean = evaluators.create("clean")
        made_of = copies.SparseCopies(
            subject, use="on", device=torch.device("cpu"), console=QUIET, shard=shard, record=None
        )
        made_of.choose([clean])
        return made_of.choices(clean), made_of.subject(clean).model.choices  # type: ignore[return-value]

    assert each(3, work) == [({"number": 1}, {"number": 1})] * 3
    assert made.measured == [20]
    assert alone.sparse[0]["choices"] == {"number": 1}


def test_where_there_are_no_kernels_it_is_told_once(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: "llvmlite is not installed: do so")
    told: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", told.append)
    for _ in range(2):
        judged(network(0.2), PGD, {**PGD, "label": "two"}, console=console)
        judged(network(1), PGD, console=console)
    (line,) = told
    assert "without sparse kernels: llvmlite is not installed: do so" in line
    assert not made.measured


# -- runs ------------------------------------------------------------------------------------------


def test_by_default_small_networks_are_left_alone(folder: Path) -> None:
    assert not (folder / "state" / "sparse").exists()
    assert all("sparse" not in entry for entry in tiny.results(folder)["networks"])


def metrics(results: Any) -> dict[str, Any]:
    return {entry["name"]: entry["metrics"] for entry in results["networks"]}


def test_a_run_records_its_choices_and_keeps_them(made: Made, tmp_path: Path) -> None:
    result = tiny.go(tmp_path / "run", PRUNED, ON)
    dense, pruned = result.networks
    assert "sparse" not in dense
    assert [(e["batch"], e["evaluators"]) for e in pruned["sparse"]] == [
        (100, ["clean"]),
        (40, ["pgd"]),
    ]
    assert pruned["sparse_training"].keys() == {"finetune"}
    written = {path: path.read_bytes() for path in result.folder.rglob("*") if path.is_file()}
    made.measured.clear()
    again = tiny.go(result.folder, PRUNED, ON, resume=True)
    assert again.results == result.results
    assert {path: path.read_bytes() for path in written} == written
    assert made.measured == []
    saved = tiny.models(result.folder)["magnitude-0.1"]
    assert b"sparse" not in saved  # files of the same recipe are the same, whatever is measured


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "number"), [("clean", 0), ("pgd", 1)])
def test_interrupted_and_resumed_is_as_uninterrupted(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, number: int
) -> None:
    whole = tiny.go(tmp_path / "whole", PRUNED, ON)
    made.numbers = itertools.count(1)
    Stop(monkeypatch, metric, number)
    with pytest.raises(InterruptedRun):
        tiny.go(tmp_path / "run", PRUNED, ON)
    resumed = tiny.go(tmp_path / "run", PRUNED, ON, resume=True)
    assert resumed.networks == whole.networks
    tables = [
        folder / "magnitude-0.1" / "images.parquet" for folder in (resumed.folder, whole.folder)
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_on_and_off_share_the_dense_network(made: Made, tmp_path: Path) -> None:
    no_judge = {**PRUNED, "evaluate": []}
    first = tiny.go(tmp_path / "one", no_judge, fresh=False)
    second = tiny.go(tmp_path / "two", no_judge, ON, fresh=False)
    assert second.network("dense")["reused"]
    assert tiny.models(first.folder).keys() == tiny.models(second.folder).keys()


@pytest.mark.slow
@pytest.mark.skipif(kernels.available() is not None, reason=str(kernels.available()))
def test_with_real_kernels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stop(monkeypatch, "pgd", 1)
    with pytest.raises(InterruptedRun):
        tiny.go(tmp_path / "run", PRUNED, ON)
    first = tiny.go(tmp_path / "run", PRUNED, ON, resume=True)
    table = first.folder / "magnitude-0.1" / "images.parquet"
    content = table.read_bytes()
    table.unlink()  # judged again as a whole, by the same choices
    (first.folder / "state" / "finished").unlink()
    again = tiny.go(tmp_path / "run", PRUNED, ON, resume=True)
    assert again.networks == first.networks
    assert table.read_bytes() == content


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture(params=["run", "check"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    def ask(*changes: Any) -> Any:
        if request.param == "check":
            return plan(tiny.recipe(PRUNED, ON, *changes))
        return tiny.go(tmp_path / "run", PRUNED, ON, *changes)

    yield ask
    assert not (tmp_path / "run").exists()


def test_on_without_kernels_is_refused_before_anything_is_trained(
    asked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: "llvmlite is not installed: do so")
    with pytest.raises(UsageError, match=r"sparse: on needs kernels: llvmlite .*do so.*auto"):
        asked()


def test_on_with_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match=r"sparse: on is for CPUs.*device: cpu.*sparse: auto"):
        plan(tiny.recipe(PRUNED, ON, {"compute": {"device": "auto"}}))
    plan(tiny.recipe(PRUNED, ON))
