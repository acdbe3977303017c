"""A dense network that recipes share is trained once, and taken only if it is the very same."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts.reading import read_model
from robustprune.datasets.source import Mixed, TensorSource
from robustprune.errors import UsageError
from robustprune.families import FAMILIES, family
from robustprune.files import lock
from robustprune.pipeline import RunResult
from robustprune.pipeline.dense_cache import DenseCache, determinants
from robustprune.pipeline.results import environment
from robustprune.pruners import Method
from robustprune.recipe import load_recipe
from robustprune.tracking import Console

from . import tiny
from .steps import interrupting, watched

DENSE = {"prune": None, "finetune": None, "evaluate": []}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Optimizer steps taken, by stage."""
    counts: Counter[str] = Counter()

    def count(network: str, stage: str) -> None:
        counts[stage] += 1

    monkeypatch.setattr(Method, "step", watched(count))
    return counts


def go(folder: Path, *changes: Mapping[str, Any], **options: Any) -> RunResult:
    return tiny.go(folder, *changes, fresh=False, **options)


@pytest.mark.slow
def test_a_second_recipe_reuses_it_and_everything_is_as_if_it_were_trained(
    tmp_path: Path, trained: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path / "first", DENSE, {"name": "first"})
    assert trained == {"pretrain": 4}
    reusing = go(tmp_path / "second", tiny.SMALL, console=Console())
    assert trained == {"pretrain": 4, "prune": 4, "finetune": 4}
    (shared,) = (tmp_path / "dense").iterdir()
    assert f"the dense network is reused from {shared}" in capsys.readouterr().out.replace("\n", "")
    assert reusing.network("dense")["reused"] == shared.name
    anew = tiny.go(tmp_path / "anew", tiny.SMALL)
    assert "reused" not in anew.network("dense")
    assert tiny.models(reusing.folder) == tiny.models(anew.folder)
    for file in ("dense/history.json", "hydra-0.1/history.json"):
        assert (reusing.folder / file).read_bytes() == (anew.folder / file).read_bytes()
    again = go(tmp_path / "second", tiny.SMALL, resume=True)
    assert again.network("dense")["reused"] == shared.name


@pytest.mark.slow
def test_fresh_neither_takes_nor_leaves_one(tmp_path: Path, trained: Counter[str]) -> None:
    tiny.go(tmp_path / "one", DENSE)
    assert not (tmp_path / "dense").exists()
    go(tmp_path / "two", DENSE)
    tiny.go(tmp_path / "three", DENSE)
    assert trained == {"pretrain": 12}


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["weights", "record", "no weights", "no record", "other key"])
def test_a_damaged_or_half_written_one_is_trained_again(
    harm: str, tmp_path: Path, trained: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = go(tmp_path / "one", DENSE)
    (folder,) = (tmp_path / "dense").iterdir()
    model, record = folder / "model.safetensors", folder / "record.json"
    if harm == "weights":
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(content)
    elif harm == "record":
        record.write_text(record.read_text()[:-20])
    elif harm == "other key":
        record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        (model if harm == "no weights" else record).unlink()
    after = go(tmp_path / "two", DENSE, console=Console())
    assert trained == {"pretrain": 8}
    assert tiny.models(after.folder) == tiny.models(before.folder)
    assert ("is damaged" in capsys.readouterr().err) == (harm != "no record")
    go(tmp_path / "three", DENSE)
    assert trained == {"pretrain": 8}, "it has been mended"


def key(*changes: Mapping[str, Any], max_steps: int | None = None) -> dict[str, Any]:
    recipe = tiny.recipe(*changes)
    data = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
    facts = environment(torch.device("cpu"))
    return determinants(recipe, data, environment=facts, origin={}, max_steps=max_steps)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": {"subset": 127}},
        {"data": {"validation": 0.1}},
        {"data": {"augment": False}},
        {"model": {"num_classes": 11}},
        {"model": {"std": [0.5]}},
        {"objective": {"steps": 3}},
        {"pretrain": {"objective": {"name": "benign"}}},
        {"pretrain": {"epochs": 1}},
        {"pretrain": {"batch_size": 63}},
        {"pretrain": {"optimizer": {"lr": 0.2}}},
        {"pretrain": {"schedule": {"name": "constant"}}},
        {"compute": {"channels_last": True}},
        {"compute": {"precision": "bf16"}},
        {"imports": ["json"]},
    ],
)
def test_what_determines_it_makes_it_another(change: dict[str, Any]) -> None:
    assert key(change) != key()


def test_what_it_starts_from_and_runs_on_makes_it_another() -> None:
    assert key(max_steps=1) != key()
    recipe = tiny.recipe()
    data = recipe.data.load(seed=0)  # type: ignore[attr-defined]
    facts = environment(torch.device("cpu"))
    rest = {"environment": facts, "origin": {}, "max_steps": None}
    usual = determinants(recipe, data, **rest)  # type: ignore[arg-type]
    for change in (
        {"origin": {"weights": {"file": "a", "sha256": "0"}}},
        {"environment": {**facts, "torch": "0"}},
        {"environment": {**facts, "threads": 99}},
        {"environment": {**facts, "device": "another"}},
    ):
        assert determinants(recipe, data, **(rest | change)) != usual  # type: ignore[arg-type]


PRUNER = """
@rp.pruners.register("{name}")
class Mine(rp.Pruner):
    pass
"""
OTHERS = {
    "nothing": "",
    "an objective": """
@rp.objectives.register("{name}")
class Loss(rp.Objective):
    pass
""",
    "another file's class": """
rp.objectives.register("{name}")(type("Loss", (rp.Objective,), {{"__module__": "elsewhere"}}))
""",
    "a backbone": """
from timm.models import register_model
@register_model
def {name}(**options):
    pass
""",
}


@pytest.fixture
def import_key(tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """What determines the dense network of a recipe that imports a file of this content."""
    registries = [family(name) for name in FAMILIES]
    known = [(registry.names(), dict(registry._parts))[1] for registry in registries]
    folders = iter(range(100))

    def of(text: str) -> dict[str, Any]:
        for registry, parts in zip(registries, known, strict=True):
            registry._parts.clear()
            registry._parts.update(parts)
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        (folder / "mine.py").write_text(f"import robustprune as rp\n# {tmp_path}\n{text}")
        recipe = load_recipe(tiny.write(folder, {"imports": ["mine.py"]}))
        data = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
        facts = environment(torch.device("cpu"))
        found = determinants(recipe, data, environment=facts, origin={}, max_steps=None)
        imports: dict[str, Any] = found["imports"]
        return imports

    yield of
    for registry, parts in zip(registries, known, strict=True):
        registry._parts.clear()
        registry._parts.update(parts)


@pytest.mark.parametrize("family_name", ["pruners", "structures", "allocations", "evaluators"])
def test_a_file_of_parts_that_pretraining_does_not_use_does_not_count(
    family_name: str, import_key: Callable[[str], dict[str, Any]]
) -> None:
    base = family(family_name).base.__name__
    text = PRUNER.replace("pruners", family_name).replace("rp.Pruner", f"rp.{family_name}.{base}")
    assert import_key(text.format(name="keyed")) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Overwriting keyed_")  # timm forgets no model
@pytest.mark.parametrize(
    ("other", "with_a_pruner"),
    [("nothing", False), *((other, both) for other in [*OTHERS][1:] for both in (False, True))],
)
def test_a_file_that_may_matter_counts(
    other: str, with_a_pruner: bool, import_key: Callable[[str], dict[str, Any]]
) -> None:
    text = OTHERS[other].format(name=f"keyed_{with_a_pruner}".lower())
    text += PRUNER.format(name="keyed_pruner") if with_a_pruner else ""
    one, two = import_key(f"{text}\n# one"), import_key(f"{text}\n# two")
    assert one.keys() == two.keys() == {"mine.py"}
    assert one != two


def test_what_comes_later_does_not() -> None:
    other = {
        "name": "other",
        "prune": {"densities": [0.5], "objective": {"name": "benign"}, "share": 0.5},
        "finetune": None,
        "evaluate": [],
        "tracking": {"experiment": "other"},
        "paper": {"source": "x"},
    }
    assert key(other) == key()
    assert key({"pretrain": {"objective": tiny.RECIPE["objective"]}}) == key()


def test_images_count_by_what_they_are() -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(40)
    whole = TensorSource(images, labels).digest()
    assert TensorSource(images.clone(), labels.clone()).digest() == whole
    for index in (0, 39):
        other, relabelled = images.clone(), labels.clone()
        other[index, 0, 7, 7] ^= 1
        relabelled[index] += 1
        assert TensorSource(other, labels).digest() != whole
        assert TensorSource(images, relabelled).digest() != whole
    few = TensorSource(images[:20], labels[:20])
    mixed = Mixed(TensorSource(images, labels), few, per_batch=2).digest()
    assert mixed not in (whole, Mixed(few, few, per_batch=2).digest())


def test_another_process_that_trains_it_is_waited_for(tmp_path: Path) -> None:
    cache = DenseCache(tmp_path, {"a": 1}, warn=pytest.fail)
    said: list[str] = []
    held = lock(cache.folder / "lock", wait=False)

    def waiting() -> None:
        said.append("waiting")
        held.close()

    with cache.claim(waiting):
        assert said == ["waiting"]
        with pytest.raises(BlockingIOError):
            lock(cache.folder / "lock", wait=False)


def test_it_can_be_judged_by_itself(tmp_path: Path) -> None:
    go(tmp_path / "run", DENSE)
    (folder,) = (tmp_path / "dense").iterdir()
    saved = read_model(folder / "model.safetensors")
    assert saved.metadata["network"] == "dense"
    assert json.loads((folder / "record.json").read_text())["key"]["seed"] == 0


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_shares_what_it_ends_with(
    tmp_path: Path, trained: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny.go(tmp_path / "whole", DENSE)
    trained.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", interrupting(4))
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", DENSE)
    (folder,) = (tmp_path / "dense").iterdir()
    assert {path.name for path in folder.iterdir()} == {"lock"}
    go(tmp_path / "run", DENSE, resume=True)
    assert trained == {"pretrain": 5}, "the epoch that was cut off is taken again"
    shutil.rmtree(tmp_path / "run")
    other = go(tmp_path / "other", DENSE)
    assert trained == {"pretrain": 5}
    assert tiny.models(other.folder) == tiny.models(whole.folder)


def test_a_place_that_takes_no_files_is_refused_before_training(
    tmp_path: Path, trained: Counter[str]
) -> None:
    (tmp_path / "dense").touch()
    with pytest.raises(UsageError, match=r"dense networks are shared: .* --fresh"):
        go(tmp_path / "run", DENSE)
    assert trained == {}


@pytest.mark.slow
def test_one_that_cannot_be_left_for_others_costs_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path / "one", DENSE)
    (folder,) = (tmp_path / "dense").iterdir()
    (folder / "record.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    result = go(tmp_path / "run", DENSE, console=Console())
    assert [network["name"] for network in result.networks] == ["dense"]
    assert "the dense network is not shared" in capsys.readouterr().err


def test_one_that_was_left_with_other_epochs_is_missing_and_not_damaged(tmp_path: Path) -> None:
    file, told = tmp_path / "file", []
    file.write_bytes(b"weights")
    cache = DenseCache(tmp_path, {"seed": 0}, warn=told.append)
    for epoch in (1, 2):
        cache.add(file, [], {epoch: file})
    assert cache.fetch({2: tmp_path / "copy"}) == []
    assert (tmp_path / "copy").read_bytes() == b"weights"
    assert cache.fetch({1: tmp_path / "copy"}) is None
    assert told == []
