import io
import math

import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.tracking import Console
from robustprune.training import optimizers, schedules
from robustprune.training.checkpoint import PhaseState
from robustprune.types import Progress
from tests.training import toys
from tests.training.toys import (
    BENIGN,
    EPOCHS,
    FREE,
    KINDS,
    STEPS,
    Spy,
    prepared,
    state_file,
    trainer,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tmp_path, kind, parts):
    grads, histories = [], []
    for accumulate in (1, parts):
        model = toys.network(norm=False)
        spy = Spy(lr=0.1)
        options = {"optimizer": spy, "accumulate": accumulate, "batch_size": 7, "epochs": 1}
        if kind == "pretrain":
            phase = toys.dense_phase(model, **options)
        else:
            masked = attach(model, density=0.3)
            build = toys.prune_phase if kind == "prune" else toys.finetune_phase
            phase = build(masked, **options)
        run = trainer(BENIGN, max_steps=1)
        histories += run.run(phase, model, state_file(tmp_path, str(accumulate)))
        grads.append(spy._grads[0])
    for whole, in_parts in zip(*grads, strict=True):
        assert bool(whole.any())
        assert torch.allclose(whole, in_parts, atol=1e-6)
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


def test_an_objective_that_repeats_batches_refuses_to_have_them_cut(tmp_path):
    model = toys.network(norm=False)
    phase = toys.dense_phase(model, accumulate=2, epochs=1)
    with pytest.raises(UsageError, match=r"'free' takes several steps.*accumulate=1"):
        trainer(FREE).run(phase, model, state_file(tmp_path))


@pytest.mark.parametrize(("most", "steps"), [(1, 1), (STEPS + 1, STEPS + 1), (100, EPOCHS * STEPS)])
def test_the_number_of_steps_can_be_cut(tmp_path, most, steps):
    model, phase = prepared("pretrain", optimizer=Spy(lr=0.1))
    run = trainer(BENIGN, max_steps=most)
    assert run.steps(phase) == steps
    history = run.run(phase, model, state_file(tmp_path))
    assert len(phase.optimizer._rates) == steps
    assert len(history) == math.ceil(steps / STEPS)


@pytest.mark.parametrize("most", [None, 11])
def test_the_learning_rate_of_each_step_follows_the_schedule(tmp_path, most):
    schedule = schedules.create("warmup", share=0.25)
    model, phase = prepared("pretrain", optimizer=Spy(lr=0.3), schedule=schedule)
    run = trainer(BENIGN, max_steps=most)
    run.run(phase, model, state_file(tmp_path))
    total = most or EPOCHS * STEPS
    expected = [
        0.3 * schedule(Progress(step // STEPS, step, step / total)) for step in range(total)
    ]
    assert phase.optimizer._rates == expected


def test_the_first_step_has_the_full_rate_and_the_last_is_above_zero(tmp_path):
    model, phase = prepared("pretrain", optimizer=Spy(lr=1.0))
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    rates, total = phase.optimizer._rates, EPOCHS * STEPS
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx((1 + math.cos(math.pi * (total - 1) / total)) / 2)


def test_a_resumed_run_goes_on_with_the_rates_where_it_was(tmp_path):
    whole, parts = Spy(lr=0.3), Spy(lr=0.3)
    model, phase = prepared("pretrain", optimizer=whole)
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    model, phase = prepared("pretrain", optimizer=parts)
    path = state_file(tmp_path, "stopped")
    with pytest.raises(toys.StoppedError):
        trainer(BENIGN, on_epoch=toys.stop_after(2)).run(phase, model, path)
    trainer(BENIGN).run(phase, model, path)
    assert parts._rates == whole._rates


def test_objectives_that_repeat_take_as_many_steps_on_each_batch(tmp_path):
    model, phase = prepared("pretrain", optimizer=Spy(lr=0.1))
    run = trainer(FREE)
    assert run.steps(phase) == 2 * EPOCHS * STEPS
    kind = type(FREE)
    with toys.spied(kind, "__call__") as calls, toys.spied(kind, "validation_loss") as validated:
        run.run(phase, model, state_file(tmp_path))
    assert len(phase.optimizer._rates) == 2 * EPOCHS * STEPS
    assert len(calls) == 2 * EPOCHS * STEPS
    assert len(validated) == EPOCHS * 3  # 10 validation images in batches of 4


def test_a_cut_phase_validates_on_as_many_batches_as_it_trains_on(tmp_path):
    model, phase = prepared("pretrain")
    with toys.spied(type(BENIGN), "validation_loss") as validated:
        trainer(BENIGN, max_steps=1).run(phase, model, state_file(tmp_path))
    assert len(validated) == 1  # of 3


def test_progress_counts_epochs_steps_and_the_fraction(tmp_path):
    seen: list[Progress] = []

    class Noting(toys.Noisy):
        def __call__(self, model, images, labels, progress):
            seen.append(progress)
            return super().__call__(model, images, labels, progress)

    model, phase = prepared("pretrain")
    trainer(Noting(), toys.splits(validation=False)).run(phase, model, state_file(tmp_path))
    total = EPOCHS * STEPS
    assert seen == [
        Progress(step // STEPS, step, step / total, EPOCHS, "pretrain") for step in range(total)
    ]


def test_validation_sees_the_network_in_eval_mode_and_leaves_it_in_its_own(tmp_path):
    model, phase = prepared("prune", norms=False, epochs=1)
    modes: list[bool] = []
    model[3].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    assert modes == [True] * STEPS + [False] * 3
    assert model[3].training


def test_the_metrics_of_an_epoch_by_hand(tmp_path):
    model = toys.network(norm=False)
    phase = toys.dense_phase(model, epochs=1, optimizer=optimizers.create("sgd", lr=1e-9))
    (entry,) = trainer(BENIGN).run(phase, model, state_file(tmp_path))
    for prefix, source in (("", toys.splits().train), ("val_", toys.splits().validation)):
        logits = model(source.images)
        loss = nn.functional.cross_entropy(logits, source.labels).item()
        accuracy = (logits.argmax(1) == source.labels).float().mean().item()
        assert entry[f"{prefix}loss"] == pytest.approx(loss, rel=1e-5)
        assert entry[f"{prefix}accuracy"] == pytest.approx(accuracy)


def test_progress_is_shown_by_network_phase_and_epoch(tmp_path):
    shown = io.StringIO()
    model, phase = prepared("pretrain", epochs=2)
    run = trainer(BENIGN)
    run.console = Console(file=shown)
    run.run(phase, model, state_file(tmp_path))
    assert [line.split("  ")[0] for line in shown.getvalue().splitlines()] == [
        "toy pretrain 1/2",
        "toy pretrain 2/2",
    ]
    assert f"{STEPS}/{STEPS}" in shown.getvalue()


def test_each_phase_gets_a_fresh_objective(tmp_path):
    run = trainer(FREE)
    for name in ("one", "two"):
        model, phase = prepared("pretrain")
        run.run(phase, model, state_file(tmp_path, name))
    one, two = (PhaseState.load(state_file(tmp_path, name)) for name in ("one", "two"))
    assert bool(one.objective["noise"].any())
    assert torch.equal(one.objective["noise"], two.objective["noise"])
    assert run.objective._noise is None
