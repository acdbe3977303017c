import torch
from torch import nn

from robustprune import objectives
from robustprune.masking import MaskedModel, attach
from robustprune.pruners import Context, Method, Pruner, Stage
from robustprune.recipe import StageOptions
from robustprune.training import optimizers, schedules
from robustprune.types import Images


def network() -> nn.Sequential:
    """Layers of 72 and 180 weights, of unlike scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    nn.init.uniform_(model[3].weight, -10, 10)
    return model


def options(**changes) -> StageOptions:
    usual = {
        "epochs": 2,
        "batch_size": 4,
        "optimizer": optimizers.create("sgd", lr=0.1),
        "schedule": schedules.create("cosine"),
    }
    return StageOptions(**(usual | changes))


def sections(**epochs: int) -> dict[str, StageOptions]:
    lengths = {"pretrain": 5, "prune": 2, "finetune": 3} | epochs
    return {name: options(epochs=count) for name, count in lengths.items()}


def batches(size, per_class=None):
    images = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    for part in torch.arange(10).split(size):
        yield Images(images[part], part % 5)


def context(pruner: Pruner, density: float = 0.1, *, seed: int = 0) -> Context:
    """What `pruner` may ask for, at hand."""
    state = network().state_dict()
    ones = attach(network()).masks
    checkpoints = {n: ones if n.startswith("mask:") else state for n in pruner.needs()}
    generator = torch.Generator().manual_seed(seed)
    return Context(density, objectives.create("benign"), generator, batches, checkpoints)


def begun(
    pruner: Pruner, density: float = 0.1, *, seed: int = 0, model: nn.Module | None = None
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
