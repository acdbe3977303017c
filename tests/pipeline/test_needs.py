"""What pruners say that they need is there, in the right order, and nothing else is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts.reading import read_model
from robustprune.cli import main
from robustprune.errors import InterruptedRun, InvalidError
from robustprune.pipeline.networks import kept_epochs, networks, wants_dense
from robustprune.pipeline.plan import plan
from robustprune.pruners import Method
from robustprune.recipe import load_recipe

from . import own, tiny
from .steps import counted, interrupting

pytestmark = pytest.mark.slow


CONSTANT = {"pretrain": {"schedule": {"name": "constant"}}}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with own.registered():
        yield


def pruning(*methods: Any, densities: tuple[float, ...] = (0.1,)) -> dict[str, Any]:
    return {"prune": {"methods": list(methods), "densities": list(densities)}, "evaluate": []}


def mine(*needed: str, **options: Any) -> dict[str, Any]:
    return {"name": "own", "needed": list(needed), **options}


def refusal(folder: Path, *changes: Any) -> str:
    with pytest.raises(InvalidError) as caught:
        load_recipe(tiny.write(folder, *changes))
    (problem,) = caught.value.problems
    return str(problem)


def test_a_network_comes_after_the_one_whose_mask_it_needs(tmp_path: Path) -> None:
    scratch = mine("fresh", "mask:hydra", label="scratch")
    changes = pruning(scratch, "hydra", "magnitude", densities=(0.5, 0.1))
    order = [network.name for network in networks(tiny.recipe(changes))]
    assert order == ["dense", "hydra-0.5", "hydra-0.1", "scratch-0.5", "scratch-0.1",
                     "magnitude-0.5", "magnitude-0.1"]  # fmt: skip
    result = tiny.go(tmp_path / "run", pruning(scratch, "hydra", densities=(0.5, 0.1)))
    assert [entry["name"] for entry in result.networks] == order[:5]
    for density in ("0.5", "0.1"):
        hydra, found = (
            read_model(result.folder / f"{name}-{density}" / "model.safetensors")
            for name in ("hydra", "scratch")
        )
        assert all(torch.equal(mask, found.masks[name]) for name, mask in hydra.masks.items())


def test_masks_may_be_needed_one_after_the_other() -> None:
    last = mine("dense", "mask:b", label="c")
    methods = [last, mine("dense", "mask:a", label="b"), mine("dense", label="a")]
    order = [network.name for network in networks(tiny.recipe(pruning(*methods)))]
    assert order == ["dense", "a-0.1", "b-0.1", "c-0.1"]


def test_a_missing_label_is_refused_with_the_nearest(tmp_path: Path) -> None:
    said = refusal(tmp_path, pruning(mine("fresh", "mask:hydar"), "hydra"))
    assert "there is no pruner 'hydar' whose mask it needs. Did you mean 'hydra'?" in said
    assert "tiny.yaml:" in said


@pytest.mark.parametrize("labels", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_circle_is_refused(labels: tuple[str, ...], tmp_path: Path) -> None:
    others = (*labels[1:], labels[0])
    methods = [mine("dense", f"mask:{o}", label=n) for n, o in zip(labels, others, strict=True)]
    with pytest.raises(InvalidError) as caught:
        load_recipe(tiny.write(tmp_path, pruning(*methods)))
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == len(labels)
    assert all("needs a mask that needs its own" in text for text in said)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (mine("dens"), "needs 'dens', which means nothing. Needs: init, fresh, dense"),
        (mine("pretrain@x"), "needs 'pretrain@x', which means nothing"),
        (mine("pretrain@3"), "needs the network after epoch 3 of pretraining, which has 2"),
        (mine("pretrain@0"), "needs the network after epoch 0 of pretraining"),
        (mine(), "must say first which network it starts from"),
        (mine("mask:hydra"), "must say first which network it starts from"),
        (mine("dense", names=["one", "one"]), "has 2 stages 'one'"),
        (mine("dense", start=2), "stage 'train' of pruner 'own' starts at epoch 2 of 2"),
    ],
)
def test_what_cannot_be_is_refused(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, pruning(method, "hydra"))


def test_hydra_without_epochs_of_its_own_is_refused_with_the_remedy(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"prune": {"epochs": None}})
    assert "pruner 'hydra' trains as the section 'prune' says, and prune.epochs is missing" in said
    assert "--set prune.epochs=10" in said
    load_recipe(tiny.write(tmp_path, {"prune": {"epochs": None}}), ["prune.methods=[magnitude]"])
    load_recipe(tiny.write(tmp_path, {"prune": {"epochs": None}}), ["prune.epochs=10"])


@pytest.mark.parametrize("need", ["init", "fresh"])
def test_where_nothing_starts_from_a_dense_network_none_is_trained(
    need: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch)
    changes = (pruning(mine(need), densities=(0.5, 0.1)), {"pretrain": None})
    assert not wants_dense(tiny.recipe(*changes))
    result = tiny.go(tmp_path / "run", *changes, fresh=False)
    assert [entry["name"] for entry in result.networks] == ["own-0.5", "own-0.1"]
    assert steps == {"own-0.5 train": 4, "own-0.1 train": 4}
    assert not (tmp_path / "dense").exists()
    _, rows = plan(tiny.recipe(*changes)).steps()
    assert rows[0][0] == "own-0.5"
    one, two = own.SEEN["own-0.5"], own.SEEN["own-0.1"]
    assert all(torch.equal(one[name], two[name]) for name in one) == (need == "init")


def test_a_run_without_a_dense_network_prints_its_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate = {"evaluate": tiny.RECIPE["evaluate"], "pretrain": None}
    recipe = tiny.write(tmp_path, pruning(mine("init")), evaluate)
    assert main(["check", str(recipe)]) == 0
    assert main(["run", str(recipe), "--out", "run"]) == 0
    assert main(["report", "run"]) == 0
    said = capsys.readouterr()
    assert "own-0.1" in said.out
    assert "\n dense  " not in said.out.partition("tiny, seed 0")[2]
    assert said.err == ""


@pytest.mark.slow
def test_the_untrained_network_is_the_one_that_pretraining_begins_with(tmp_path: Path) -> None:
    tiny.go(tmp_path / "run", CONSTANT, pruning(mine("init", label="a"), mine("dense", label="b")))
    still = {"pretrain": {"optimizer": {"lr": 1e-30}}}
    tiny.go(tmp_path / "still", still, pruning(mine("dense", label="c")))
    a, b, c = (own.SEEN[f"{name}-0.1"] for name in "abc")
    assert all(torch.equal(a[name], c[name]) for name in a)
    assert not any(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_early_weights_are_those_of_the_epoch(tmp_path: Path) -> None:
    changes = (CONSTANT, pruning(mine("pretrain@1", label="early"), mine("pretrain@2")))
    assert kept_epochs(tiny.recipe(*changes)) == [1, 2]
    tiny.go(tmp_path / "run", *changes)
    short = {"pretrain": {"epochs": 1}}
    tiny.go(tmp_path / "short", CONSTANT, short, pruning(mine("dense", label="short")))
    tiny.go(tmp_path / "whole", CONSTANT, pruning(mine("dense", label="whole")))
    for one, other in (("early", "short"), ("own", "whole")):
        found, expected = own.SEEN[f"{one}-0.1"], own.SEEN[f"{other}-0.1"]
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_early_weights_are_shared_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch)

    def go(name: str, *needed: str) -> Counter[str]:
        steps.clear()
        tiny.go(tmp_path / name, pruning(mine(*needed)), fresh=False)
        return Counter(steps)

    assert go("one", "pretrain@1")["dense pretrain"] == 4
    first = own.SEEN["own-0.1"]
    assert go("two", "pretrain@1")["dense pretrain"] == 0
    assert all(torch.equal(tensor, own.SEEN["own-0.1"][name]) for name, tensor in first.items())
    assert go("three", "dense")["dense pretrain"] == 0
    assert go("four", "pretrain@2")["dense pretrain"] == 4, "nobody had kept that epoch"
    (shared,) = (tmp_path / "dense").iterdir()
    (shared / "pretrain@2.pt").write_bytes(b"damaged")
    assert go("five", "pretrain@2")["dense pretrain"] == 4
    assert go("six", "pretrain@2")["dense pretrain"] == 0


def test_a_run_that_is_cut_has_early_weights_too(tmp_path: Path) -> None:
    result = tiny.go(tmp_path / "run", pruning(mine("pretrain@2")), max_steps=1)
    assert [entry["name"] for entry in result.networks] == ["dense", "own-0.1"]


@pytest.mark.parametrize("number", [2, 3, 6, 8])
def test_interrupted_in_any_stage_it_ends_with_the_same_bytes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", interrupting(number))
        with pytest.raises(InterruptedRun):
            tiny.go(tmp_path / "run", *STAGED)
    tiny.go(tmp_path / "run", *STAGED, resume=True)
    assert tiny.models(tmp_path / "run") == undisturbed


STAGED = (
    {"pretrain": {"epochs": 1}, "finetune": {"epochs": 1}},
    pruning(mine("pretrain@1", names=["one", "two"]), mine("fresh", "mask:own", label="scratch")),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with own.registered():
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        return tiny.models(tiny.go(folder, *STAGED).folder)


@pytest.mark.parametrize("number", range(1, 4))
def test_interrupted_in_begin_it_begins_that_stage_anew(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    original, left = own.OwnMethod.begin, [number]

    def begin(self: own.OwnMethod, stage: Any, masked: Any) -> None:
        original(self, stage, masked)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(own.OwnMethod, "begin", begin)
        with pytest.raises(InterruptedRun):
            tiny.go(tmp_path / "run", *STAGED)
    tiny.go(tmp_path / "run", *STAGED, resume=True)
    assert tiny.models(tmp_path / "run") == undisturbed
