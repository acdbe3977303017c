"""Every pruning method takes two steps under every objective, or says before why it cannot.

On one network of 340 weights. A pair that is refused stands in `REFUSED`, with words of the reason
that is given; any other one must run.
"""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from robustprune import objectives
from robustprune.adapters import lirpa_library
from robustprune.components import build
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource, balanced
from robustprune.errors import UsageError
from robustprune.masking import attach, select
from robustprune.objectives import Objective
from robustprune.pruners import Context, Pruner, Stage
from robustprune.recipe import Recipe, inconsistencies
from robustprune.tracking import Console
from robustprune.training.loop import Trainer
from robustprune.training.state import StageState
from robustprune.types import Images

from . import tiny
from .test_every_method import SETTINGS

pytestmark = pytest.mark.slow

DENSITY, STEPS, SIZE = 0.1, 2, 8
ONE_PASS = {"free": "moves its noise with each gradient"}
LABELS = [str(setting.get("label", setting["name"])) for setting in SETTINGS]
REFUSED: dict[str, dict[str, str]] = {
    label: ONE_PASS
    for label, setting in zip(LABELS, SETTINGS, strict=True)
    if "sharpness" in setting
}
"""By the pruner's label and the objective: words of the reason."""


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@functools.cache
def data(validated: bool = False) -> Splits:
    pixels = torch.rand(40, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    train = TensorSource(pixels, torch.arange(40) % 10)
    held = train if validated else None
    return Splits(
        train=train, validation=held, test=None, num_classes=10, channels=1, image_size=SIZE
    )


@functools.cache
def recipe(objective: str) -> Recipe:
    """All settings under one objective; a dense network is not trained under one that needs it."""
    stage = {"batch_size": 8, "epochs": 2}
    pretrain = {**stage, "objective": {"name": "benign"} if needs(objective) else None}
    changes = {
        "data": {"validation": 0.1},
        "pretrain": pretrain,
        "prune": {"methods": SETTINGS, **stage},
        "finetune": stage,
    }
    document = tiny.document({"objective": None}, changes)
    document["objective"] = {"name": objective}
    document["prune"]["densities"] = [DENSITY]
    return build(Recipe, document)


def needs(objective: str) -> tuple[str, ...]:
    return objectives.get(objective).needs


@functools.cache
def refusals(objective: str) -> Mapping[int, str]:
    """What `check` says of each pruner, by its number."""
    said: dict[int, str] = {}
    for problem in inconsistencies(recipe(objective)):
        assert problem.place[:2] == ("prune", "methods"), problem
        said[problem.place[2]] = f"{said.get(problem.place[2], '')}{problem.message}"
    return said


def batches(size: int, per_class: int | None = None) -> Iterator[Images]:
    source = data().train
    assert source is not None
    found = source.batches(size, generator=torch.Generator().manual_seed(1))
    if per_class is not None:
        found = balanced(found, per_class, classes=10)
    return (Images(batch.images, batch.labels) for batch in found)


def checkpoints(pruner: Pruner) -> dict[str, Any]:
    """What pruners may need: networks of other seeds, and a mask of the density."""
    others = attach(network(5))
    weights = {name: weight.detach().abs() for name, weight in others.weights.items()}
    masks = select(weights, DENSITY, allocation=pruner.allocation, structure=others.structure)
    state = network(6).state_dict()
    return {need: masks if need.startswith("mask:") else state for need in pruner.needs()}


def objective_of(name: str) -> Objective:
    objective = copy.deepcopy(recipe(name).objective)
    teacher = network(7).eval().requires_grad_(False)
    objective.bind(dict.fromkeys(needs(name), teacher))  # type: ignore[attr-defined]
    return objective  # type: ignore[return-value]


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    """Accelerate's, without what takes a run's time: it collects garbage after each stage.

    States are not written; see `test_every_method`.
    """
    lirpa_library.lirpa()
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageState, "save", lambda self, path: None)
        yield Accelerator(cpu=True)
    gc.unfreeze()


def trained(pruner: Pruner, name: str, accelerator: Accelerator, folder: Path) -> None:
    """Take a network through two steps of each of its stages, as a run does."""
    objective, model = objective_of(name), network()
    given = checkpoints(pruner)
    model.load_state_dict(given[pruner.needs()[0]])
    masked = attach(model, exclude=pruner.exclude, structure=pruner.structure)
    generator = torch.Generator().manual_seed(2)
    method = pruner.method(Context(DENSITY, objective, generator, batches, given))
    quiet = Console(quiet=True)
    trainer = Trainer(
        accelerator=accelerator,
        objective=objective,
        data=data(pruner.needs_validation),
        seed=0,
        console=quiet,
        max_steps=STEPS,
    )
    before = {n: tensor.clone() for n, tensor in model.state_dict().items()}
    for stage in stages(pruner, name):
        path = folder / name / f"{stage.name}.pt"
        history = trainer.train(pruner.variant, stage, masked, method, path)
        assert all(torch.tensor(list(epoch.values())).isfinite().all() for epoch in history)
        assert history or stage.options is None
    after = model.state_dict()
    assert not all(torch.equal(tensor, after.get(n, tensor)) for n, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert masked.kept == pytest.approx(DENSITY * masked.prunable, abs=2)


def stages(pruner: Pruner, objective: str) -> list[Stage]:
    """Its stages, all under the objective, the ones that go by ``pretrain`` too."""
    found = pruner.stages(DENSITY, recipe(objective).stages)
    own = {"objective": None}
    return [s._replace(options=s.options and s.options.model_copy(update=own)) for s in found]


@pytest.mark.parametrize("label", LABELS)
def test_it_runs_under_every_objective_or_says_why_not(
    label: str, accelerator: Accelerator, tmp_path: Path
) -> None:
    number, faults = LABELS.index(label), {}
    for name in objectives.names():
        said, words = refusals(name).get(number, ""), REFUSED.get(label, {}).get(name)
        if words is not None:
            assert words in said
            continue
        assert not said, f"{label} under {name}"
        pruner: Pruner = recipe(name).prune.methods[number]  # type: ignore[union-attr,assignment]
        try:
            trained(pruner, name, accelerator, tmp_path)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            faults[name] = repr(error)
    assert not faults


def test_what_is_refused_is_refused_by_training_too(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    for label, reasons in REFUSED.items():
        for name, words in reasons.items():
            pruner: Any = recipe(name).prune.methods[LABELS.index(label)]  # type: ignore[union-attr]
            with pytest.raises(UsageError, match=words):
                trained(pruner, name, accelerator, tmp_path)
