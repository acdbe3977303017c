"""Stages whose masks stand still, trained through sparse kernels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune import kernels, objectives, pruners
from robustprune.errors import ContractError
from robustprune.kernels import Program
from robustprune.objectives import Objective
from robustprune.training import loop, step
from tests.pipeline.copies import Trained
from tests.training import toys

PGD = objectives.create("pgd", eps=0.1, steps=2)


def choices_of(folder: Path) -> Any:
    return lambda network, stage: folder / f"{network}.{stage.name}.json"


class Watched(Trained):
    """Computes as the network does, and notes how it is used."""

    numbers = itertools.count()
    made: list[dict[str, Any]]
    seen: list[str]

    def __init__(self, model: Any, masked: Any, images: Any, **options: Any) -> None:
        super().__init__(model, masked, images, **options)
        self.measured = "number" not in self.choices
        self.choices.setdefault("number", next(self.numbers))
        Watched.made.append({"images": len(images), "kept": masked.kept, **self.choices})

    def refresh(self) -> None:
        Watched.seen.append("refresh")

    def forward(self, images: Any) -> Any:
        assert self.training == self.model.training
        Watched.seen.append("train" if self.training else "eval")
        return super().forward(images)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(Watched, "made", [], raising=False)
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    for module in (loop, step):
        monkeypatch.setattr(module, "SparseTraining", Watched)
    return Watched


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        (PGD, {}),
        (objectives.create("trades", steps=2), {"accumulate": 2, "select": "best"}),
        (toys.FREE, {}),
        (PGD, {"pruner": {"sharpness": {"radius": 0.1}}}),
    ],
    ids=["pgd", "in parts", "free", "sharp"],
)
def test_a_stand_in_that_computes_alike_gives_the_same_bits(
    tmp_path: Path, watched: type[Watched], objective: Objective, changes: dict[str, Any]
) -> None:
    plain, setting = toys.prepared("finetune", **changes)
    history = toys.train(toys.trainer(objective), setting, toys.state_file(tmp_path))
    assert not watched.made
    through, setting = toys.prepared("finetune", **changes)
    run = toys.trainer(objective, sparse=choices_of(tmp_path))
    assert toys.train(run, setting, toys.state_file(tmp_path, "sparse")) == history
    assert toys.same(toys.weights(through), toys.weights(plain))
    assert watched.seen


def test_each_pass_refreshes_before_it_attacks_and_learns(
    tmp_path: Path, watched: type[Watched]
) -> None:
    _, setting = toys.prepared("finetune", accumulate=2, epochs=1)
    run = toys.trainer(PGD, toys.splits(validation=False), max_steps=1, sparse=choices_of(tmp_path))
    toys.train(run, setting, toys.state_file(tmp_path))
    assert watched.seen == ["refresh", "eval", "eval", "train"] * 2


def test_validation_goes_through_it_too(tmp_path: Path, watched: type[Watched]) -> None:
    _, setting = toys.prepared("finetune", epochs=1)
    run = toys.trainer(toys.BENIGN, max_steps=1, sparse=choices_of(tmp_path))
    toys.train(run, setting, toys.state_file(tmp_path))
    assert watched.seen == ["refresh", "train", "refresh", "eval"]


@pytest.mark.parametrize("kind", ["pretrain", "prune", "dynamic"])
def test_where_masks_may_move_nothing_changes(
    tmp_path: Path, watched: type[Watched], kind: str
) -> None:
    _, setting = toys.prepared(kind, epochs=1)
    run = toys.trainer(PGD, sparse=choices_of(tmp_path))
    toys.train(run, setting, toys.state_file(tmp_path))
    assert not watched.made
    assert not list(tmp_path.glob("*.json"))


class Unsteady(pruners.get("magnitude")):  # type: ignore[misc]
    """Moves masks where they are said to stand still."""

    registered_name = "unsteady"

    def method(self, context: Any) -> Any:
        method = super().method(context)

        def after_epoch(stage: Any, masked: Any, *more: Any) -> dict[str, float]:
            masked.set({name: ~mask for name, mask in masked.masks.items()})
            return {}

        method.after_epoch = after_epoch
        return method


def test_masks_that_move_all_the_same_are_the_pruners_fault(
    tmp_path: Path, watched: type[Watched]
) -> None:
    _, setting = toys.prepared("finetune", pruner=Unsteady())
    run = toys.trainer(PGD, sparse=choices_of(tmp_path))
    with pytest.raises(ContractError, match=r"masks stand still in 'finetune'.* moved them"):
        toys.train(run, setting, toys.state_file(tmp_path))


def test_what_was_chosen_is_kept_by_a_stage_that_goes_on(
    tmp_path: Path, watched: type[Watched]
) -> None:
    file, where = tmp_path / "toy.finetune.json", toys.state_file(tmp_path)
    _, setting = toys.prepared("finetune", accumulate=2)
    stopped = toys.trainer(PGD, on_epoch=toys.stop_after(1), sparse=choices_of(tmp_path))
    with pytest.raises(toys.StoppedError):
        toys.train(stopped, setting, where)
    chosen = json.loads(file.read_text())
    _, setting = toys.prepared("finetune", accumulate=2)
    toys.train(toys.trainer(PGD, sparse=choices_of(tmp_path)), setting, where)
    assert json.loads(file.read_text()) == chosen
    assert {one["number"] for one in watched.made} == {chosen["number"]}
    masked = setting.masked
    assert all(one["images"] == toys.BATCH // 2 for one in watched.made)
    assert all(one["kept"] == masked.kept < masked.prunable for one in watched.made)


# -- with kernels ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(kernels.available() is not None, reason=str(kernels.available()))
@pytest.mark.parametrize("objective", [PGD, objectives.create("trades", steps=2)])
def test_kernels_train_as_torch_does_and_a_stage_goes_on_to_the_same_bits(
    tmp_path: Path, objective: Objective
) -> None:
    plain, setting = toys.prepared("finetune", norm=False)
    toys.train(toys.trainer(objective), setting, toys.state_file(tmp_path))

    layers = {name: {"sparse": True} for name in ("0", "5")}
    attacks = {"network": "sparse", "few": 1, "layers": layers}
    file = tmp_path / "toy.finetune.json"
    file.write_text(json.dumps({"attacks": attacks, "layers": [*layers]}))
    found = []
    for name, stops in (("whole", ()), ("resumed", (1, 2))):
        where = toys.state_file(tmp_path, name)
        for epochs in stops:
            _, setting = toys.prepared("finetune", norm=False)
            stop = toys.stop_after(epochs)
            run = toys.trainer(objective, on_epoch=stop, sparse=choices_of(tmp_path))
            with pytest.raises(toys.StoppedError):
                toys.train(run, setting, where)
        through, setting = toys.prepared("finetune", norm=False)
        run = toys.trainer(objective, sparse=choices_of(tmp_path))
        with toys.spied(Program, "backward") as calls:
            toys.train(run, setting, where)
        assert calls
        found.append(toys.weights(through))
    assert toys.same(*found)
    for name, weight in toys.weights(plain).items():
        torch.testing.assert_close(found[0][name], weight, rtol=1e-3, atol=1e-4)
