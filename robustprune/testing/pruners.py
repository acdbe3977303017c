"""The contract of pruners and of their methods at work, hooks called as the loop does."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import objectives
from robustprune.masking import MaskedModel, attach, select
from robustprune.objectives import Loss
from robustprune.pruners import Context, Method, Pruner, Stage
from robustprune.recipe import StageOptions
from robustprune.testing.contract import Contract, changed, expect, joined
from robustprune.training import optimizers, schedules
from robustprune.types import Images, Progress

PRUNERS = Contract("method", "stages")
DENSITY = 0.1
_HOOKS = [
    *("prepare", "begin", "param_groups", "train_mode", "penalty", "step", "after_step"),
    *("select", "after_epoch", "alarm", "eligible", "finished", "state_dict", "load_state_dict"),
]
_METRICS = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}


def network() -> nn.Sequential:
    """Layers of 72 and 180 weights, of unlike scale; for images of 2×5×5."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    nn.init.uniform_(model[3].weight, -10, 10)  # type: ignore[arg-type]
    return model


def sections() -> dict[str, StageOptions]:
    """The stages of a recipe, as long as their names suggest."""
    usual: dict[str, Any] = {
        "batch_size": 4,
        "optimizer": optimizers.create("sgd", lr=0.1),
        "schedule": schedules.create("cosine"),
    }
    lengths = {"pretrain": 5, "prune": 2, "finetune": 3}
    return {name: StageOptions(epochs=count, **usual) for name, count in lengths.items()}


def batches(size: int, per_class: int | None = None) -> Iterator[Images]:
    """Ten images of five classes, the same at each call."""
    images = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    for part in torch.split(torch.arange(10), size):
        yield Images(images[part], part % 5)


def context(pruner: Pruner, density: float = DENSITY, *, seed: int = 0, **given: Any) -> Context:
    """Everything that a pruner may ask for."""
    state, others = network().state_dict(), attach(network(), structure=pruner.structure)
    weights = {name: weight.abs() for name, weight in others.weights.items()}
    masks = select(weights, density, allocation=pruner.allocation, structure=pruner.structure)
    checkpoints = {n: masks if n.startswith("mask:") else state for n in pruner.needs()}
    usual: dict[str, Any] = {
        "objective": objectives.create("benign"),
        "generator": torch.Generator().manual_seed(seed),
        "batches": batches,
        "checkpoints": checkpoints,
    }
    return Context(density, **(usual | given))


def begun(
    pruner: Pruner, density: float = DENSITY, *, seed: int = 0, model: nn.Module | None = None
) -> tuple[MaskedModel, Method, list[Stage]]:
    """A network after each of its stages has begun and nothing was trained."""
    model = network() if model is None else model
    masked = attach(model, exclude=pruner.exclude, structure=pruner.structure)
    method = pruner.method(context(pruner, density, seed=seed))
    stages = pruner.stages(density, sections())
    for stage in stages:
        method.prepare(stage, masked)
        method.begin(stage, masked)
    return masked, method, stages


def expected(pruner: Pruner, density: float) -> int:
    """The number of weights that the pruner's allocation and structure keep of the network."""
    masked = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    sizes = {name: weight.detach().abs() for name, weight in masked.weights.items()}
    masks = select(sizes, density, allocation=pruner.allocation, structure=pruner.structure)
    masked.set(masks)
    return masked.kept


def trained(
    pruner: Pruner, masked: MaskedModel, method: Method | None = None
) -> Iterator[tuple[Stage, int]]:
    """Train each stage for three steps; gives it, and the steps that it has taken."""
    method = method or pruner.method(context(pruner))
    for stage in pruner.stages(DENSITY, sections()):
        method.prepare(stage, masked)
        method.begin(stage, masked)
        yield stage, 0
        if stage.options is None:
            continue
        optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=1.0)
        for step in range(3):
            take_step(method, stage, masked, optimizer, step)
            yield stage, step + 1


def train(method: Method, stage: Stage, masked: MaskedModel, steps: Iterable[int]) -> None:
    """Take steps of these numbers, if the stage trains anything."""
    if stage.options is not None:
        optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=1.0)
        for step in steps:
            take_step(method, stage, masked, optimizer, step)


def take_step(method: Method, stage: Stage, masked: MaskedModel, optimizer: Any, step: int) -> None:
    """Take one step, as the loop does, and end an epoch with it."""
    images = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(step))
    progress = Progress(0, step, step / 3, 1, stage.name)

    def closure(*, again: bool = False) -> Loss:
        optimizer.zero_grad()
        with masked.cached():
            logits = masked.model(images)
            total = F.cross_entropy(logits, torch.arange(10) % 5)
            penalty = method.penalty(stage, masked, progress)
            torch.autograd.backward(total if penalty is None else total + penalty)
        return Loss(total, logits, {})

    method.train_mode(stage, masked)
    method.step(stage, masked, closure, optimizer, Progress(stage=stage.name))
    method.after_step(stage, masked, optimizer, progress)
    method.after_epoch(stage, masked, optimizer, progress, _METRICS)


def _differ(one: MaskedModel, other: MaskedModel) -> list[str]:
    return [name for name, mask in one.masks.items() if not torch.equal(mask, other.masks[name])]


@PRUNERS.promise
def says_its_stages(pruner: Pruner) -> None:
    """It names its stages, and what it needs, before there is a network."""
    stages = pruner.stages(DENSITY, sections())
    names = [stage.name for stage in stages]
    expect(names, "stages() gives none")
    expect(len(set(names)) == len(names), f"two stages have one name: {joined(names)}")
    for stage in stages:
        late = stage.options is not None and not 0 <= stage.start < max(1, stage.options.epochs)
        expect(not late, f"stage '{stage.name}' starts at epoch {stage.start}, its end")
    needs = pruner.needs()
    expect(needs and all(isinstance(need, str) for need in needs), f"needs() gives {needs!r}")


@PRUNERS.promise
def gives_each_network_a_method(pruner: Pruner) -> None:
    """method(context) gives each network a method of its own."""
    given = context(pruner)
    one, other = pruner.method(given), pruner.method(given)
    expect(isinstance(one, Method), f"method() gives {type(one).__name__}: extend rp.Method")
    expect(one is not other, "method() gives the same object twice")
    expect(one.pruner is pruner and one.context is given, "it does not hold pruner and context")


@PRUNERS.promise
def misspells_no_hook(pruner: Pruner) -> None:
    """No name in its method is nearly a hook's, which would never be called."""
    method = pruner.method(context(pruner))
    names = {name for kind in type(method).__mro__ for name in vars(kind)} - set(dir(Method))
    for name in sorted(names):
        hooks = get_close_matches(name, _HOOKS, 1, 0.9)
        expect(not hooks, f"'{name}' is never called; the hook is '{joined(hooks)}'")


@PRUNERS.promise
def keeps_the_density_from_the_start(pruner: Pruner) -> None:
    """Once its stages have begun the network has the density that was asked for."""
    for density in (0.05, 0.1, 1.0):
        masked, _, _ = begun(pruner, density)
        right = expected(pruner, density)
        expect(masked.kept == right, f"at density {density} it keeps {masked.kept}, not {right}")
        finite = masked.model(torch.rand(2, 2, 5, 5)).isfinite().all()
        expect(finite, f"at density {density} the logits are not finite")


@PRUNERS.promise
def keeps_the_density_in_the_end(pruner: Pruner) -> None:
    """After its last step the network has the density that was asked for."""
    masked = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    list(trained(pruner, masked))
    right = expected(pruner, DENSITY)
    expect(masked.kept == right, f"at density {DENSITY} it keeps {masked.kept}, not {right}")


@PRUNERS.promise
def keeps_by_size(pruner: Pruner) -> None:
    """The importance that it keeps weights by is at least 0."""
    masked = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    method = pruner.method(context(pruner))
    masks, below = method.masks, set[str]()

    def seen(masked: MaskedModel, importance: Mapping[str, Any], density: float) -> Any:
        known = masked.masks  # what these prune may come last
        below.update(n for n, sizes in importance.items() if bool((sizes < 0)[known[n]].any()))
        return masks(masked, importance, density)

    vars(method)["masks"] = seen
    list(trained(pruner, masked, method))
    lost = f"some is negative in {joined(sorted(below))}, and would be pruned first: take its abs()"
    expect(not below, lost)


@PRUNERS.promise
def stands_still_where_it_says(pruner: Pruner) -> None:
    """Masks stand still in the stages that `still` names, and it trains such stages."""
    masked = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    before = masked.masks
    for stage, step in trained(pruner, masked):
        before = masked.masks if step == 0 else before
        for name, mask in masked.masks.items() if pruner.stands_still(stage.name) else ():
            expect(torch.equal(mask, before[name]), f"'{stage.name}' moves the mask of {name}")
    names = {stage.name.partition("-")[0] for stage in pruner.stages(DENSITY, sections())}
    expect(set(pruner.still) <= names, f"still names {pruner.still}, and it trains {joined(names)}")


@PRUNERS.promise
def draws_from_its_generator(pruner: Pruner) -> None:
    """Its hooks draw from the context's generator only, so that masks agree everywhere."""
    masked = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    tensors, arrays = torch.get_rng_state(), np.random.get_state()
    list(trained(pruner, masked))
    expect(torch.equal(torch.get_rng_state(), tensors), "a hook drew from torch's own generator")
    expect(str(np.random.get_state()) == str(arrays), "a hook drew from numpy's own generator")
    one = begun(pruner)[0]
    torch.manual_seed(9)
    differ = _differ(one, begun(pruner)[0])
    expect(not differ, f"the same generator gave other masks of {joined(differ)}")


@PRUNERS.promise
def prepares_twice(pruner: Pruner) -> None:
    """Preparing twice is harmless and draws nothing, as a resumed run does."""
    fresh, method = attach(network(), exclude=pruner.exclude, structure=pruner.structure), None
    method = pruner.method(context(pruner))
    for stage in pruner.stages(DENSITY, sections()):
        state = method.context.generator.get_state()
        for _ in range(2):
            method.prepare(stage, fresh)
        drawn = not torch.equal(method.context.generator.get_state(), state)
        expect(not drawn, f"prepare() of '{stage.name}' draws: do that in begin()")
        method.begin(stage, fresh)
        before = copy.deepcopy(fresh.model.state_dict())
        method.prepare(stage, fresh)
        after = fresh.model.state_dict()
        same = after.keys() == before.keys() and all(
            torch.equal(after[name], tensor) for name, tensor in before.items()
        )
        expect(same, f"prepare() of '{stage.name}' changes a network whose stage has begun")


@PRUNERS.promise
def goes_on_where_it_stopped(pruner: Pruner) -> None:
    """A resumed network goes on to the same weights: its state is all in state_dict()."""
    masked, method, stages = begun(pruner)
    stage = stages[-1]
    train(method, stage, masked, range(2))
    fresh = attach(network(), exclude=pruner.exclude, structure=pruner.structure)
    resumed = pruner.method(context(pruner, seed=5))
    resumed.prepare(stage, fresh)
    fresh.model.load_state_dict(masked.model.state_dict())
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    resumed.context.generator.set_state(method.context.generator.get_state())
    train(method, stage, masked, range(2, 4))
    train(resumed, stage, fresh, range(2, 4))
    state, other = masked.model.state_dict(), fresh.model.state_dict()
    differ = [name for name, tensor in state.items() if not torch.equal(other[name], tensor)]
    expect(not differ, f"it goes on to other values of {joined(differ)}")
    expect(str(method.state_dict()) == str(resumed.state_dict()), "its state_dict() is another")


@PRUNERS.promise
def names_its_networks(pruner: Pruner) -> None:
    """Networks are named by label, or pruner, and density."""
    plain, labelled = changed(pruner, label=None), changed(pruner, label="mine")
    expect(plain.network(0.01) == f"{pruner.registered_name}-0.01", plain.network(0.01))
    expect(labelled.network(0.1) == "mine-0.1", labelled.network(0.1))


@PRUNERS.promise
def survives_its_document(pruner: Pruner) -> None:
    """Its options, written to a recipe and read again, make the same pruner."""
    document = pruner.model_dump(mode="json", serialize_as_any=True)
    again = type(pruner)(**{key: value for key, value in document.items() if key != "name"})
    expect(again == pruner, f"written as {document}")
