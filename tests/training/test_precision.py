"""Mixed precision: bf16 trains on a CPU; fp16's scaling is played there in full precision."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn import functional as F

from robustprune import objectives
from robustprune.adapters import torchattacks
from robustprune.errors import DivergedError
from robustprune.objectives import Loss, Objective
from robustprune.training.state import StageState
from robustprune.training.step import LossScale
from tests.training import toys
from tests.training.toys import BENIGN, prepared, same, state_file, trainer, weights

SHARP = {"sharpness": {"radius": 0.3}}


class Overflowing(Objective):
    """Cross-entropy; the gradient of one pass is infinite, as fp16's is when it overflows."""

    at: int | None
    """Which of all passes; None for every one."""

    def loss(self, model, images, attacked, labels, progress):
        logits = model(images)
        total = F.cross_entropy(logits, labels)
        if not torch.is_grad_enabled() or not model.training:
            return Loss(total, logits, {})
        type(self).passes += 1
        if self.at is None or type(self).passes == self.at:
            total.register_hook(lambda gradient: gradient * torch.inf)
        return Loss(total, logits, {})


@pytest.fixture(autouse=True)
def counted():
    Overflowing.passes = 0


def test_the_scale_halves_at_an_overflow_and_doubles_after_many_steps_without_one():
    scale = LossScale(enabled=True)
    assert scale.scale == 2.0**16
    scale.update(finite=False)
    assert scale.scale == 2.0**15
    for _ in range(LossScale.GROWTH_STEPS - 1):
        scale.update(finite=True)
    assert scale.scale == 2.0**15
    other = LossScale(enabled=True)
    other.load_state_dict(scale.state_dict())
    other.update(finite=True)
    assert other.scale == 2.0**16
    off = LossScale(enabled=False)
    off.update(finite=False)
    assert (off.scale, off.state_dict()) == (1.0, {})


@pytest.mark.parametrize("kind", toys.KINDS)
def test_scaled_losses_train_to_the_same_weights(tmp_path, kind):
    found = []
    for scales in (False, True):
        model, setting = prepared(kind)
        run = trainer(toys.Noisy(), scales=scales)
        toys.train(run, setting, state_file(tmp_path, str(scales)))
        found.append(weights(model))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name])


@pytest.mark.parametrize(
    ("kind", "pruner", "at"),
    [
        ("pretrain", None, 3),
        ("prune", None, 3),
        ("prune", SHARP, 5),  # the first pass of the third step
        ("prune", SHARP, 6),  # the second one
        ("finetune", SHARP, 6),
        ("dynamic", SHARP, 6),
    ],
)
def test_a_step_whose_gradients_overflow_is_left_out(tmp_path, kind, pruner, at):
    """No optimizer step, no after_step; moves are undone; the scale is halved."""
    spy, before = toys.Spy(lr=5.0), {}
    model, setting = prepared(kind, pruner=pruner, optimizer=spy, epochs=1, norm=False)
    method, kept = type(setting.method), []

    class Watched(method):
        def step(self, stage, masked, closure, optimizer, progress):
            before[len(before)] = weights(model)
            return super().step(stage, masked, closure, optimizer, progress)

        def after_step(self, stage, masked, optimizer, progress):
            kept.append(progress.step)
            super().after_step(stage, masked, optimizer, progress)

    setting.method.__class__ = Watched
    run = trainer(Overflowing(at=at), toys.splits(validation=False), scales=True)
    (entry,) = toys.train(run, setting, state_file(tmp_path))
    assert kept == [0, 1, 3]
    assert len(spy._rates) == 3
    assert same(before[2], before[3])
    assert not same(before[1], before[2])
    state = StageState.load(state_file(tmp_path))
    assert state.scale == {"scale": 2.0**15, "good": 1.0}
    assert state.step == toys.STEPS, "the schedule goes on"
    assert 0 < entry["loss"] < 10


def test_an_epoch_of_overflows_alone_has_no_loss_to_show(tmp_path):
    _, setting = prepared("pretrain", epochs=1)
    run = trainer(Overflowing(at=None), toys.splits(validation=False), scales=True, max_steps=2)
    assert toys.train(run, setting, state_file(tmp_path)) == [{}]


def test_gradients_that_overflow_at_every_scale_are_a_divergence(tmp_path):
    _, setting = prepared("pretrain", epochs=100)
    run = trainer(Overflowing(at=None), toys.splits(validation=False), scales=True)
    with pytest.raises(DivergedError, match=r"pretrain epoch \d+, step \d+ is nan"):
        toys.train(run, setting, state_file(tmp_path))


def test_each_stage_begins_with_a_new_scale_and_a_resumed_one_with_its_own(tmp_path):
    path = state_file(tmp_path)
    _, setting = prepared("pretrain")
    run = trainer(Overflowing(at=2), scales=True, on_epoch=toys.stop_after(1))
    with pytest.raises(toys.StoppedError):
        toys.train(run, setting, path)
    for file, scale, good in ((path, 2.0**15, 10.0), (state_file(tmp_path, "new"), 2.0**16, 12.0)):
        _, setting = prepared("pretrain")
        toys.train(trainer(BENIGN, scales=True), setting, file)
        assert StageState.load(file).scale == {"scale": scale, "good": good}


def test_bf16_trains(tmp_path):
    try:
        model, setting = prepared("prune", optimizer=toys.optimizers.create("sgd", lr=5))
        run = trainer(objectives.create("pgd", steps=1))
        AcceleratorState._reset_state()  # its precision is global to a process
        run.accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        history = toys.train(run, setting, state_file(tmp_path))
    finally:
        AcceleratorState._reset_state()
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in history)
    assert setting.masked.turnover > 0
    assert all(t.dtype != torch.bfloat16 for t in model.state_dict().values())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_attacks_follow_bf16_and_leave_fp16(half):
    """The gradients of images are too small for fp16."""
    dtypes = []

    class Net(torch.nn.Linear):
        def forward(self, images):
            logits = super().forward(images.flatten(1))
            dtypes.append(logits.dtype)
            return logits

    net = Net(4, 3)
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=half):
        found = torchattacks.perturb("PGD", net, images, labels, eps=0.1, alpha=0.1, steps=1)
        net(images)
    assert found.dtype == torch.float32
    assert set(dtypes[:-1]) == {torch.bfloat16 if half == torch.bfloat16 else torch.float32}
    assert dtypes[-1] == half
