"""What holds on a CPU holds on the accelerator; where there is none, the CPU stands for it.

Every test takes both devices to the same network and images, so that without an accelerator it only
shows that it can be run. `benchmarks/gpu/run.sh` runs them where there is one.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import robustprune as rp
from robustprune.adapters.bounds import Bounds
from robustprune.adapters.smoothing import Smoothed
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource
from robustprune.errors import InterruptedRun
from robustprune.masking import MaskedModel
from robustprune.recipe import StageOptions
from robustprune.tracking import Console
from robustprune.training import optimizers
from robustprune.training.loop import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
CPU = torch.device("cpu")
IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 4
EXACT: dict[str, dict[str, Any]] = {
    "benign": {},
    "pgd": {"eps": 0.05, "steps": 3, "random_start": False},
    "fgsm": {"eps": 0.05, "random_start": False},
    "ibp": {"eps": 0.01},
    "crown_ibp": {"eps": 0.01},
}
"""Objectives that draw nothing: the devices have generators of their own."""


@pytest.fixture(autouse=True)
def full_precision() -> Any:
    """Let fp32 be fp32, as a run does."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def own_parts() -> Any:
    """Forget a test's own parts."""
    registry = rp.datasets.registry
    known = (registry.names(), dict(registry._parts))[1]
    yield
    registry._parts.clear()
    registry._parts.update(known)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).endswith("pictures.py"):
            del sys.modules[name]


def network() -> nn.Module:
    """A small one with BatchNorm, the same at each call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def pruned(
    device: torch.device,
    folder: Path,
    objective: rp.Objective,
    *,
    precision: str = "no",
    **options: Any,
) -> tuple[MaskedModel, dict[str, Tensor], list[float]]:
    """A network after one step of each of HYDRA's stages, on a device.

    Returns:
        The network, its tensors after the prune stage by name, and each stage's loss.
    """
    pruner = rp.pruners.create("hydra")
    masked = rp.masking.attach(network(), structure=pruner.structure)
    context = rp.Context(
        density=0.3,
        objective=objective,
        generator=torch.Generator().manual_seed(0),
        batches=lambda size, per_class=None: iter(()),
        checkpoints={},
    )
    method = pruner.method(context)
    rate = optimizers.create("sgd", lr=options.pop("lr", 0.1), momentum=0.9)
    stage_options = StageOptions(**{"epochs": 1, "batch_size": 16, "optimizer": rate, **options})
    source = TensorSource(IMAGES, LABELS)
    AcceleratorState._reset_state(reset_partial_state=True)  # or the first device is every one's
    trainer = Trainer(
        accelerator=Accelerator(cpu=device == CPU, mixed_precision=precision),
        objective=objective,
        data=Splits(source, None, None, num_classes=4, channels=3, image_size=8),
        seed=0,
        console=Console(quiet=True),
        scales=precision == "fp16",
    )
    losses, after_prune = [], {}
    stages = pruner.stages(0.3, dict.fromkeys(("pretrain", "prune", "finetune"), stage_options))
    for stage in stages:
        history = trainer.train("n", stage, masked, method, folder / f"{stage.name}.pt")
        losses.append(history[0]["loss"])
        if stage.name == "prune":
            after_prune = {
                n: t.detach().cpu().clone() for n, t in masked.model.state_dict().items()
            }
    return masked, after_prune, losses


@pytest.mark.parametrize("name", EXACT)
def test_a_step_of_each_stage_is_the_cpus(name: str, tmp_path: Path) -> None:
    objective = rp.objectives.create(name, **EXACT[name])
    (tmp_path / "there").mkdir()
    here, scores_here, losses_here = pruned(CPU, tmp_path, objective)
    there, scores_there, losses_there = pruned(DEVICE, tmp_path / "there", objective)
    assert losses_there == pytest.approx(losses_here, rel=1e-4)
    for tensor, value in scores_here.items():
        assert torch.allclose(scores_there[tensor].double(), value.double(), rtol=1e-3, atol=1e-4)
    for mask, value in here.masks.items():  # entries whose scores are equal to rounding may differ
        assert (there.masks[mask].cpu() != value).sum() <= 2
        assert there.masks[mask].sum() == value.sum()


def test_trades_and_stability_train_to_the_same_loss_but_for_their_draws(tmp_path: Path) -> None:
    for name in ("trades", "stability"):
        objective = rp.objectives.create(name)
        for device in ("here", "there"):
            (tmp_path / name / device).mkdir(parents=True)
        _, _, here = pruned(CPU, tmp_path / name / "here", objective)
        _, _, there = pruned(DEVICE, tmp_path / name / "there", objective)
        assert there == pytest.approx(here, rel=0.3)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("structure", ["weight", "filter", "channel", "block"])
def test_masks_of_the_same_scores_are_equal(allocation: str, structure: str) -> None:
    random = torch.Generator().manual_seed(3)
    shapes = {"a": (16, 8, 3, 3), "b": (32, 16, 3, 3), "c": (10, 64)}
    # of few values, so that ties are many
    scores = {n: torch.randint(0, 5, s, generator=random).float() for n, s in shapes.items()}
    options = {"allocation": rp.allocations.create(allocation)}
    options |= {"structure": rp.structures.create(structure)}
    here = rp.masking.select(scores, 0.37, **options)
    there = rp.masking.select({n: s.to(DEVICE) for n, s in scores.items()}, 0.37, **options)
    for name, mask in here.items():
        assert there[name].device.type == DEVICE.type
        assert torch.equal(there[name].cpu(), mask), name


def test_masked_weights_are_computed_once_under_autocast() -> None:
    masked = rp.masking.attach(network().to(DEVICE))
    masked.set({name: weight > 0 for name, weight in masked.weights.items()})
    masked.add_scores({name: w.detach().clone() for name, w in masked.weights.items()})
    images, labels = IMAGES.to(DEVICE), LABELS.to(DEVICE)
    gradients = []
    for _ in range(2):
        with masked.cached(), torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            with torch.no_grad():
                masked.model(images)  # must not cache a weight without its graph
            loss = nn.functional.cross_entropy(masked.model(images).float(), labels)
            loss.backward()
        gradients.append([score.grad.clone() for score in masked.scores.values()])
        for score in masked.scores.values():
            score.grad = None
    for first, second in zip(*gradients, strict=True):
        assert first.abs().sum() > 0
        assert torch.allclose(first, second)


def test_turnover_is_counted_of_a_network_that_was_moved_after_its_first_masks() -> None:
    masked = rp.masking.attach(network())
    masked.set({name: weight > 0 for name, weight in masked.weights.items()})
    masked.model.to(DEVICE)
    assert masked.turnover == 0
    masked.set({name: weight <= 0 for name, weight in masked.weights.items()})
    assert masked.turnover == 1


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_bounds_lie_below_every_margin_that_a_search_finds(method: str) -> None:
    model, eps = network().to(DEVICE).eval(), 0.02
    images, labels = IMAGES.to(DEVICE), LABELS.to(DEVICE)
    low = Bounds(model, images[:1]).margins(model, images, labels, eps=eps, method=method)
    others = torch.arange(4, device=DEVICE).expand(16, 4)
    others = others[others != labels[:, None]].view(16, 3)
    found = torch.full_like(low, torch.inf)
    for rival in others.T:
        moved = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
        for _ in range(20):
            moved.requires_grad_()
            margins = margins_of(model(moved), labels, others)
            (slope,) = torch.autograd.grad(margins[others == rival[:, None]].sum(), moved)
            moved = moved.detach() - eps / 4 * slope.sign()
            moved = moved.clamp(images - eps, images + eps).clamp(0, 1)
            found = torch.minimum(found, margins_of(model(moved), labels, others).detach())
    assert (low <= found + 1e-4).all()
    assert low.isfinite().all()


def margins_of(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]) - logits.gather(1, others)


def test_a_certificate_counts_every_draw_and_its_radius_is_below_the_true_one() -> None:
    """Of a linear classifier the smoothed margin is known: the distance to its plane."""
    weight = torch.zeros(2, 192)
    weight[1, 0], sigma = 1.0, 0.5
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(torch.tensor([0.0, -0.5]))
    images = torch.full((3, 3, 8, 8), 0.5)
    images[:, 0, 0, 0] = torch.tensor([0.1, 0.7, 1.0])
    smoothed = Smoothed(model.to(DEVICE), 2, sigma, seed=0)
    found = smoothed.certify(images.to(DEVICE), n0=100, n=2000, alpha=0.001)
    distance = (images[:, 0, 0, 0] - 0.5).abs().double()
    assert (found.radius <= distance + 1e-9).all()
    kept = found.prediction >= 0
    assert found.prediction[kept].tolist() == (images[:, 0, 0, 0] > 0.5).long()[kept].tolist()
    assert kept.any()


def recipe(folder: Path, **compute: Any) -> dict[str, Any]:
    stage = {"epochs": 2, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.1}}
    return {
        "name": "gpu",
        "imports": [str(folder / "pictures.py")],
        "data": {"name": "pictures"},
        "model": {"name": "cnn_small"},
        "objective": {"name": "pgd", "eps": 0.05, "steps": 2},
        "pretrain": stage,
        "prune": {**stage, "methods": ["hydra"], "densities": [0.2]},
        "finetune": stage,
        "evaluate": [{"name": "pgd", "eps": 0.05, "steps": 2, "samples": 16}],
        "compute": {"device": "auto" if CUDA else "cpu", "threads": 1, **compute},
        "tracking": {"enabled": False},
    }


PICTURES = '''
"""Random images in memory."""

import robustprune as rp
import torch
from robustprune.datasets.source import TensorSource

if "pictures" not in rp.datasets.names():

    @rp.datasets.register("pictures")
    class Pictures(rp.Dataset):
        """48 images of 32×32 pixels."""

        @property
        def num_classes(self):
            """Ten."""
            return 10

        channels = property(lambda self: 3)
        image_size = property(lambda self: 32)

        def open(self, *, train):
            """The same ones each time."""
            random = torch.Generator().manual_seed(int(train))
            images = torch.rand(48, 3, 32, 32, generator=random)
            return TensorSource(images, torch.arange(48) % 10)
'''


def weights(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.glob("*/model.safetensors")}


def run(folder: Path, out: str, *, compute: dict[str, Any] | None = None, **options: Any) -> Path:
    import yaml

    (folder / "pictures.py").write_text(PICTURES, encoding="utf-8")
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(folder, **(compute or {}))), encoding="utf-8")
    return rp.run(file, out=folder / out, fresh=True, **options).folder


def test_two_runs_are_equal_to_the_bit_and_so_is_one_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(run(tmp_path, "first"))
    assert whole == weights(run(tmp_path, "second"))
    assert len(whole) == 2
    step, taken = rp.Method.step, 0

    def interrupting(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 9:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rp.Method, "step", interrupting)
        with pytest.raises((InterruptedRun, KeyboardInterrupt)):
            run(tmp_path, "cut")
    assert weights(run(tmp_path, "cut", resume=True)) == whole


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision: str, tmp_path: Path) -> None:
    if precision == "fp16" and not CUDA:
        pytest.skip("fp16 needs a GPU")
    folder = run(tmp_path, "half", compute={"precision": precision, "channels_last": True})
    for network in ("dense", "hydra-0.2"):
        model = rp.load_model(folder / network / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_scale_that_overflows_is_halved_and_the_step_left_out(tmp_path: Path) -> None:
    """In fp16 the first scale, 65536, is too much for a loss of this size; a later one is not."""
    if not CUDA:
        pytest.skip("fp16 needs a GPU")

    class Large(type(rp.objectives.create("benign"))):  # type: ignore[misc]
        def loss(self, model: Any, *arguments: Any) -> rp.Loss:
            found = super().loss(model, *arguments)
            return rp.Loss(10 * found.total, found.logits, found.parts)

    masked, _, losses = pruned(DEVICE, tmp_path, Large(), precision="fp16", lr=1e-4, batch_size=2)
    state = torch.load(io.BytesIO((tmp_path / "prune.pt").read_bytes()), weights_only=True)
    assert state["scale"]["scale"] < 2**16
    assert all(tensor.isfinite().all() for tensor in masked.model.state_dict().values())
    assert all(loss > 0 for loss in losses)
