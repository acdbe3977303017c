"""A network, a data set and stages that train in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune import objectives, pruners
from robustprune.datasets import Splits
from robustprune.datasets.source import Source, TensorSource
from robustprune.masking import MaskedModel, attach, structures
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Context, Method, Pruner, Stage, reset_grown
from robustprune.recipe import StageOptions
from robustprune.tracking import Console
from robustprune.training import optimizers, schedules
from robustprune.training.loop import History, Trainer
from robustprune.training.optimizers import OptimizerPart
from robustprune.training.state import StageState
from robustprune.types import Progress

EPOCHS, BATCH, IMAGES = 3, 4, 14  # batches of 4, 4, 4 and 2
STEPS = 4
KINDS = ("pretrain", "prune", "finetune", "dynamic")
BENIGN = objectives.create("benign")
FREE = objectives.create("free", eps=0.1, replays=2)


class Noisy(Objective):
    """Draws from the global generator, in training and in validation."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        logits = model(images + 0.1 * torch.randn_like(images))
        return Loss(F.cross_entropy(logits, labels), logits, {})


class Cursed(Objective):
    """Cross-entropy, whose value becomes something else from some step on."""

    at: int
    value: Any

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        logits = model(images)
        total = F.cross_entropy(logits, labels)
        if progress.step >= self.at:
            total = total * 0 + self.value
        return Loss(total, logits, {})


class Spy(OptimizerPart):
    """Plain SGD that notes the learning rate and the gradients of each step."""

    _rates: list[float] = PrivateAttr(default_factory=list)
    _grads: list[list[Tensor]] = PrivateAttr(default_factory=list)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(list(parameters), lr=self.lr)
        optimizer.register_step_pre_hook(self._note)
        return optimizer

    def _note(self, optimizer: Any, *_: Any) -> None:
        groups = optimizer.param_groups
        self._rates.append(groups[0]["lr"])
        tensors = [p for group in groups for p in group["params"]]
        self._grads.append([p.grad.clone() for p in tensors if p.grad is not None])


def network_of(*, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(0.2) if norm else nn.Identity(),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )


def images(count: int, seed: int) -> TensorSource:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 2, 4, 4, generator=generator)
    return TensorSource(pixels, torch.randint(3, (count,), generator=generator))


def splits(*, validation: bool = True, train: Source | None = None) -> Splits:
    return Splits(
        train=train or images(IMAGES, 1),
        validation=images(10, 2) if validation else None,
        test=None,
        num_classes=3,
        channels=2,
        image_size=4,
    )


def trainer(objective: Objective, data: Splits | None = None, **options: Any) -> Trainer:
    return Trainer(
        accelerator=Accelerator(cpu=True),
        objective=objective,
        data=data or splits(),
        seed=5,
        console=Console(quiet=True),
        **options,
    )


class Restless(Pruner):
    """Moves some of the masks at random after each step, and has all that a method can have."""

    def stages(self, density: float, recipe: Any) -> list[Stage]:
        return [Stage("dynamic", recipe["pretrain"])]

    def method(self, context: Context) -> Method:
        return RestlessMethod(self, context)


class RestlessMethod(Method):
    """It draws, counts, penalises what is far from where it began, and renews masks."""

    begins = 0
    steps = 0
    center: Mapping[str, Tensor] = MappingProxyType({})

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        masked.add_scores()

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        self.begins += 1
        self.center = {name: weight.detach().clone() for name, weight in masked.weights.items()}
        self.keep(masked, self._drawn(masked))

    def penalty(self, stage: Stage, masked: MaskedModel, progress: Progress) -> Tensor:
        pairs = [(weight, self.center[name]) for name, weight in masked.weights.items()]
        return 0.1 * torch.stack([(one - other).square().sum() for one, other in pairs]).sum()

    def after_step(self, stage: Stage, masked: MaskedModel, optimizer: Any, progress: Any) -> None:
        self.steps += 1
        if self.steps % 3 == 0:
            reset_grown(masked, optimizer, self.keep(masked, self._drawn(masked)))

    def after_epoch(self, *args: Any) -> dict[str, float]:
        return {"moves": float(self.steps // 3)}

    def state_dict(self) -> dict[str, Any]:
        return {"begins": self.begins, "steps": self.steps, "center": dict(self.center)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begins, self.steps, self.center = state["begins"], state["steps"], state["center"]

    def _drawn(self, masked: MaskedModel) -> dict[str, Tensor]:
        generator = self.context.generator
        return {n: torch.rand(w.shape, generator=generator) for n, w in masked.weights.items()}


class Setting(NamedTuple):
    """One network at the start of a stage."""

    masked: MaskedModel
    method: Method
    stage: Stage
    network: str = "toy"


def options(**changes: Any) -> StageOptions:
    usual: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "optimizer": optimizers.create("sgd", lr=0.1),
        "schedule": schedules.create("cosine"),
    }
    return StageOptions(**(usual | changes))


def context(density: float = 0.3, **changes: Any) -> Context:
    usual: dict[str, Any] = {
        "objective": BENIGN,
        "generator": torch.Generator().manual_seed(7),
        "batches": lambda size, per_class=None: iter(
            [images(IMAGES, 1).read(torch.arange(size), None)]
        ),
        "checkpoints": {},
    }
    return Context(density=density, **(usual | changes))


def dense(model: nn.Module) -> MaskedModel:
    """A network without masks, as the dense one is trained."""
    return MaskedModel(model, [], structure=structures.create("weight"))


PRUNERS = {"prune": "hydra", "finetune": "magnitude"}


def prepared(
    kind: str, *, network: str = "toy", norm: bool = True, pruner: Any = None, **changes: Any
) -> tuple[nn.Module, Setting]:
    """A new network and a stage of this kind, the same ones each time.

    Args:
        kind: pretrain, prune (hydra's) or finetune (magnitude's).
        network: its name.
        norm: whether it has a norm layer and dropout.
        pruner: another one, or options of the usual one's.
        changes: of the stage's options.
    """
    model, stage = network_of(norm=norm), Stage(kind, options(**changes))
    if kind == "pretrain" and pruner is None:
        return model, Setting(dense(model), Method(), stage, network)
    if not isinstance(pruner, Pruner):
        options_of = pruner or {}
        pruner = Restless(**options_of) if kind == "dynamic" else None
        pruner = pruner or pruners.create(PRUNERS[kind], **options_of)
    return model, Setting(attach(model), pruner.method(context()), stage, network)


def train(trainer: Trainer, setting: Setting, path: Path) -> History:
    masked, method, stage, network = setting
    return trainer.train(network, stage, masked, method, path)


def begun(setting: Setting, path: Path) -> dict[str, Tensor]:
    """The network as the method begins with it; nothing is trained."""

    class Stopping(Noisy):
        def __call__(self, *args: Any) -> Loss:
            raise StoppedError

    try:
        train(trainer(Stopping()), setting, path)
    except StoppedError:
        state = StageState.load(path)
        assert state is not None
        return state.model
    raise AssertionError("nothing was trained")


SCORES = {"0.parametrizations.weight.0.scores", "5.parametrizations.weight.0.scores"}
MASKS = {name.replace("scores", "mask") for name in SCORES}


class StoppedError(Exception):
    """What a test ends a run with."""


def stop_after(epochs: int) -> Callable[[str, Stage, History], None]:
    def on_epoch(network: str, stage: Stage, history: History) -> None:
        if len(history) == epochs:
            raise StoppedError

    return on_epoch


@contextmanager
def spied(target: type, method: str) -> Iterator[list[Any]]:
    """The first argument of every call of a method."""
    calls: list[Any] = []
    original = getattr(target, method)

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[0] if args else None)
        return original(self, *args, **kwargs)

    setattr(target, method, spy)
    try:
        yield calls
    finally:
        setattr(target, method, original)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def state_file(folder: Path, name: str = "stage") -> Path:
    return folder / "state" / f"{name}.pt"
