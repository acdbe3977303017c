import io
import math

import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.tracking import Console
from robustprune.training import optimizers, schedules
from robustprune.training.state import StageState
from robustprune.types import Progress
from tests.training import toys
from tests.training.toys import (
    BENIGN,
    EPOCHS,
    FREE,
    STEPS,
    Spy,
    prepared,
    state_file,
    trainer,
)


def test_an_objective_that_repeats_batches_refuses_to_have_them_cut(tmp_path):
    _, setting = prepared("pretrain", norm=False, accumulate=2, epochs=1)
    with pytest.raises(UsageError, match=r"'free' takes several steps.*pretrain\.accumulate=1"):
        toys.train(trainer(FREE), setting, state_file(tmp_path))
    assert not state_file(tmp_path).exists()


@pytest.mark.parametrize(("most", "steps"), [(1, 1), (STEPS + 1, STEPS + 1), (100, EPOCHS * STEPS)])
def test_the_number_of_steps_can_be_cut(tmp_path, most, steps):
    spy = Spy(lr=0.1)
    _, setting = prepared("pretrain", optimizer=spy)
    run = trainer(BENIGN, max_steps=most)
    history = toys.train(run, setting, state_file(tmp_path))
    assert len(spy._rates) == steps
    assert len(history) == math.ceil(steps / STEPS)


@pytest.mark.parametrize("most", [None, 11])
def test_the_learning_rate_of_each_step_follows_the_schedule(tmp_path, most):
    schedule = schedules.create("warmup", share=0.25)
    spy = Spy(lr=0.3)
    _, setting = prepared("pretrain", optimizer=spy, schedule=schedule)
    run = trainer(BENIGN, max_steps=most)
    toys.train(run, setting, state_file(tmp_path))
    total = most or EPOCHS * STEPS
    expected = [
        0.3 * schedule(Progress(step // STEPS, step, step / total)) for step in range(total)
    ]
    assert spy._rates == expected


def test_the_first_step_has_the_full_rate_and_the_last_is_above_zero(tmp_path):
    spy = Spy(lr=1.0)
    _, setting = prepared("pretrain", optimizer=spy)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    rates, total = spy._rates, EPOCHS * STEPS
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx((1 + math.cos(math.pi * (total - 1) / total)) / 2)


def test_a_resumed_run_goes_on_with_the_rates_where_it_was(tmp_path):
    whole, parts = Spy(lr=0.3), Spy(lr=0.3)
    _, setting = prepared("pretrain", optimizer=whole)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    _, setting = prepared("pretrain", optimizer=parts)
    path = state_file(tmp_path, "stopped")
    with pytest.raises(toys.StoppedError):
        toys.train(trainer(BENIGN, on_epoch=toys.stop_after(2)), setting, path)
    toys.train(trainer(BENIGN), setting, path)
    assert parts._rates == whole._rates


def test_objectives_that_repeat_take_as_many_steps_on_each_batch(tmp_path):
    spy = Spy(lr=0.1)
    _, setting = prepared("pretrain", optimizer=spy)
    run = trainer(FREE)
    kind = type(FREE)
    with toys.spied(kind, "__call__") as calls, toys.spied(kind, "validation_loss") as validated:
        toys.train(run, setting, state_file(tmp_path))
    assert len(spy._rates) == 2 * EPOCHS * STEPS
    assert len(calls) == 2 * EPOCHS * STEPS
    assert len(validated) == EPOCHS * 3  # 10 validation images in batches of 4


def test_a_cut_stage_validates_on_as_many_batches_as_it_trains_on(tmp_path):
    _, setting = prepared("pretrain")
    with toys.spied(type(BENIGN), "validation_loss") as validated:
        toys.train(trainer(BENIGN, max_steps=1), setting, state_file(tmp_path))
    assert len(validated) == 1  # of 3


def test_progress_counts_epochs_steps_and_the_fraction(tmp_path):
    seen: list[Progress] = []

    class Noting(toys.Noisy):
        def __call__(self, model, images, labels, progress):
            seen.append(progress)
            return super().__call__(model, images, labels, progress)

    _, setting = prepared("pretrain")
    toys.train(trainer(Noting(), toys.splits(validation=False)), setting, state_file(tmp_path))
    total = EPOCHS * STEPS
    assert seen == [
        Progress(step // STEPS, step, step / total, EPOCHS, "pretrain") for step in range(total)
    ]


def test_validation_sees_the_network_in_eval_mode_and_leaves_it_in_its_own(tmp_path):
    model, setting = prepared("prune", pruner={"train_norms": False}, epochs=1)
    modes: list[bool] = []
    model[3].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    assert modes == [True] * STEPS + [False] * 3
    assert model[3].training


def test_the_metrics_of_an_epoch_by_hand(tmp_path):
    still = {"epochs": 1, "optimizer": optimizers.create("sgd", lr=1e-9)}
    model, setting = prepared("pretrain", norm=False, **still)
    (entry,) = toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    for prefix, source in (("", toys.splits().train), ("val_", toys.splits().validation)):
        logits = model(source.images)
        loss = nn.functional.cross_entropy(logits, source.labels).item()
        accuracy = (logits.argmax(1) == source.labels).float().mean().item()
        assert entry[f"{prefix}loss"] == pytest.approx(loss, rel=1e-5)
        assert entry[f"{prefix}accuracy"] == pytest.approx(accuracy)


def test_progress_is_shown_by_network_stage_and_epoch(tmp_path):
    shown = io.StringIO()
    _, setting = prepared("pretrain", epochs=2)
    run = trainer(BENIGN)
    run.console = Console(file=shown)
    toys.train(run, setting, state_file(tmp_path))
    assert [line.split("  ")[0] for line in shown.getvalue().splitlines()] == [
        "toy pretrain 1/2",
        "toy pretrain 2/2",
    ]
    assert f"{STEPS}/{STEPS}" in shown.getvalue()


@pytest.mark.slow
def test_each_stage_gets_a_fresh_objective(tmp_path):
    run = trainer(FREE)
    for name in ("one", "two"):
        _, setting = prepared("pretrain")
        toys.train(run, setting, state_file(tmp_path, name))
    one, two = (StageState.load(state_file(tmp_path, name)) for name in ("one", "two"))
    assert bool(one.processes[0]["objective"]["noise"].any())
    assert torch.equal(
        one.processes[0]["objective"]["noise"], two.processes[0]["objective"]["noise"]
    )
    assert run.objective.state_dict() == {}
