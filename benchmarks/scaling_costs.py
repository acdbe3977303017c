"""What one step of each stage costs on this machine: operations, operators, bytes and seconds.

Stages, objective and optimizers are those of a recipe. Operations, operators and bytes are the same
on every machine; only ``seconds`` are not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from prepared import STAGES, Prepared, prepared
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import robustprune as rp
from robustprune.masking import MaskedModel
from robustprune.masking.selection import keep_largest
from robustprune.objectives import Objective
from robustprune.pruners import Stage
from robustprune.recipe import Recipe, StageOptions
from robustprune.training.state import StageState
from robustprune.types import Progress

FLOAT = 4
UPDATE, MASKS, SELECTION = 10, 8, 12
"""Times that SGD with momentum and decay, masked weights with their backward pass, and the
selection read or write a number of each weight. Read off the code, not measured."""
_NO_KERNEL = ("detach", "alias", "view", "reshape", "expand", "t.default", "empty", "transpose")


@dataclass
class Setting:
    """A stage of a network, ready for steps."""

    prepared: Prepared
    objective: Objective
    optimizer: torch.optim.Optimizer
    device: torch.device

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.prepared.stage

    @property
    def options(self) -> StageOptions:
        """How it trains."""
        assert self.stage.options is not None
        return self.stage.options

    @property
    def masked(self) -> MaskedModel:
        """The masks; none of a dense network."""
        return self.prepared.masked

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.masked.model

    def step(self, images: Tensor, labels: Tensor, *, autocast: bool = False) -> None:
        """As the loop takes it."""
        precision = torch.autocast(self.device.type, torch.bfloat16) if autocast else nullcontext()
        with self.masked.cached():
            with precision:
                loss = self.objective(self.model, images, labels, Progress(stage=self.stage.name))
            loss.total.backward()
        self.objective.after_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.prepared.select()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def settings(recipe: Recipe, *, device: torch.device) -> Iterator[Setting]:
    """The three stages, each of a network of its own."""
    assert recipe.prune is not None
    for name in STAGES:
        model = rp.create_model(recipe.model.name, num_classes=recipe.data.num_classes)  # type: ignore[attr-defined]
        density = recipe.prune.densities[0]
        found = prepared(model.to(device), name, density=density, options=recipe.stages)
        found.method.train_mode(found.stage, found.masked)
        groups = found.method.param_groups(found.stage, found.masked)
        optimizer = recipe.stages[name].optimizer.build(groups)  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["foreach"] = True  # what torch chooses on a GPU, and fewer operators
        objective: Objective = recipe.objective.fresh()  # type: ignore[attr-defined]
        yield Setting(found, objective, optimizer, device)


def measure(setting: Setting, *, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """One stage; seconds are of ``batch`` images."""
    images, labels = _images(setting, batch, size), torch.arange(batch, device=setting.device)
    setting.step(images, labels)
    times = [_clocked(lambda: setting.step(images, labels)) for _ in range(rounds)]
    with FlopCounterMode(display=False) as flops:
        setting.step(images, labels)
    operators, selecting = _operators(lambda: setting.step(images, labels)), 0
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        setting.model(images)
    moving = sum(tensor.numel() for tensor in setting.prepared.trained)
    weights, learning = setting.masked.prunable, bool(setting.masked.scores)
    if learning:
        chosen = _operators(setting.prepared.select)
        operators, selecting = operators - chosen, chosen + _selecting(setting.masked)
    saved = {p: _saved(setting, size, autocast=p == "bf16") for p in ("fp32", "bf16")}
    return {
        "seconds": statistics.median(times),
        "times": times,
        "flops": flops.get_total_flops() / batch,
        "forward": forward.get_total_flops() / batch,
        "operators": operators,
        "selecting": selecting,
        "gradients": FLOAT * moving,
        "touched": FLOAT * (UPDATE * moving + MASKS * weights),
        "selected": FLOAT * SELECTION * weights if learning else 0,
        **_norms(setting.model),
        **_state(setting),
        "noise": sum(kept.nbytes / len(kept) for kept in setting.objective.state_dict().values()),
        "activations": {p: per_image for p, (per_image, _) in saved.items()},
        "kept_once": {p: constant for p, (_, constant) in saved.items()},
    }


class Operators(TorchDispatchMode):
    """Counts what is launched; views and allocations are not."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function).removeprefix("aten.")
        self.count += not any(name.lstrip("_").startswith(free) for free in _NO_KERNEL)
        return function(*args, **(kwargs or {}))


def state_of(setting: Setting) -> StageState:
    """What a resumed stage would start from."""
    return StageState(
        begun=True,
        model=setting.model.state_dict(),
        initial=setting.masked.initial,
        optimizer=setting.optimizer.state_dict(),
        processes=[{"objective": setting.objective.state_dict()}],
    )


def _operators(work: Callable[[], object]) -> int:
    with Operators() as operators:
        work()
    return operators.count


def _selecting(masked: MaskedModel) -> int:
    """Operators of `keep_largest` as a GPU runs it: numpy's way is for a CPU's float32 only."""
    masks = masked.masks
    pairs = [(s.detach().abs().bfloat16(), int(masks[n].sum())) for n, s in masked.scores.items()]
    return _operators(lambda: [keep_largest(importance, kept) for importance, kept in pairs])


def _norms(model: nn.Module) -> dict[str, int]:
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    features = sum(layer.num_features for layer in layers)
    return {"norms": len(layers), "sums": 2 * FLOAT * features}


def _state(setting: Setting) -> dict[str, int]:
    tensors = [*setting.model.parameters(), *setting.model.buffers()]
    momenta = [value for state in setting.optimizer.state.values() for value in state.values()]
    of_scores = _bytes(setting.masked.scores.values())
    of_masks = _bytes(setting.masked.masks.values())
    first = _bytes((setting.masked.initial or {}).values())  # turnover is counted against it
    return {
        "weights": _bytes(tensors) - of_scores - of_masks,
        "scores": of_scores,
        "masks": of_masks + first,
        "momenta": _bytes(momenta),
    }


def _saved(setting: Setting, size: int, *, autocast: bool) -> tuple[float, float]:
    """Bytes that are kept for the backward pass: an image's, and those of no image."""
    few, more = (_kept(setting, size, batch, autocast=autocast) for batch in (2, 4))
    return (more - few) / 2, few - (more - few)


def _kept(setting: Setting, size: int, batch: int, *, autocast: bool) -> int:
    """Storages that autograd keeps in one step, those of parameters and buffers left out."""
    own = [*setting.model.parameters(), *setting.model.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = torch.arange(batch, device=setting.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        setting.step(_images(setting, batch, size), labels, autocast=autocast)
    return sum(found.values())


def _images(setting: Setting, batch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, size, size, generator=generator).to(setting.device)


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def _clocked(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
