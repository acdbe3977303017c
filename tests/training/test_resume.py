import pytest
import torch

from robustprune import objectives
from robustprune.errors import UsageError
from robustprune.training import optimizers
from robustprune.training.checkpoint import PhaseState
from tests.training import toys
from tests.training.toys import (
    BENIGN,
    EPOCHS,
    FREE,
    KINDS,
    STEPS,
    prepared,
    same,
    state_file,
    trainer,
    weights,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [(BENIGN, "sgd"), (FREE, "sgd"), (toys.Noisy(), "adam")],
    ids=["benign", "free", "noisy"],
)
def test_a_run_stopped_after_every_epoch_comes_to_the_same_bits(
    tmp_path, kind, objective, optimizer
):
    part = optimizers.create(optimizer, lr=0.05)
    model, phase = prepared(kind, optimizer=part)
    history = trainer(objective).run(phase, model, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    for epochs in range(1, EPOCHS + 1):
        stopped, its_phase = prepared(kind, optimizer=part)
        with pytest.raises(toys.StoppedError):
            trainer(objective, on_epoch=toys.stop_after(epochs)).run(its_phase, stopped, path)
    resumed, its_phase = prepared(kind, optimizer=part)
    assert trainer(objective).run(its_phase, resumed, path) == history
    assert same(weights(resumed), weights(model))


def test_a_run_stopped_within_an_epoch_repeats_that_epoch(tmp_path):
    model, phase = prepared("pretrain")
    trainer(toys.Noisy()).run(phase, model, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    stopped, its_phase = prepared("pretrain")

    class Pulled(toys.Noisy):
        def __call__(self, model, images, labels, progress):
            if progress.step == STEPS + 2:
                raise toys.StoppedError
            return super().__call__(model, images, labels, progress)

    with pytest.raises(toys.StoppedError):
        trainer(Pulled()).run(its_phase, stopped, path)
    state = PhaseState.load(path)
    assert state is not None
    assert (state.epoch, state.step) == (1, STEPS)
    resumed, its_phase = prepared("pretrain")
    trainer(toys.Noisy()).run(its_phase, resumed, path)
    assert same(weights(resumed), weights(model))


def test_a_finished_phase_is_read_and_not_trained_again(tmp_path):
    model, phase = prepared("prune")
    history = trainer(BENIGN).run(phase, model, state_file(tmp_path))
    again, its_phase = prepared("prune")
    with toys.spied(objectives.get("benign"), "__call__") as calls:
        assert trainer(BENIGN).run(its_phase, again, state_file(tmp_path)) == history
    assert not calls
    assert same(weights(again), weights(model))


def test_callers_hear_of_each_epoch_once_it_is_saved_and_of_old_ones_on_resume(tmp_path):
    path = state_file(tmp_path)
    heard: list[tuple[int, int]] = []

    def on_epoch(phase, history):
        saved = PhaseState.load(path)
        assert saved is not None
        heard.append((len(history), saved.epoch))
        if len(heard) == 2:
            raise toys.StoppedError

    model, phase = prepared("pretrain")
    with pytest.raises(toys.StoppedError):
        trainer(BENIGN, on_epoch=on_epoch).run(phase, model, path)
    trainer(BENIGN, on_epoch=on_epoch).run(phase, model, path)
    assert heard == [(1, 1), (2, 2), (2, 2), (3, 3)]


def test_the_state_of_another_network_is_refused(tmp_path):
    model, phase = prepared("pretrain")
    trainer(BENIGN).run(phase, model, state_file(tmp_path))
    masked, its_phase = prepared("finetune")
    with pytest.raises(UsageError, match=r"phase\.pt is the state of another network"):
        trainer(BENIGN).run(its_phase, masked, state_file(tmp_path))


def test_a_damaged_state_is_refused(tmp_path):
    path = state_file(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"not a state")
    model, phase = prepared("pretrain")
    with pytest.raises(UsageError, match="not a readable phase state"):
        trainer(BENIGN).run(phase, model, path)


def worsening(**options):
    """Weights soon fit the few training images by heart: the last epoch is not the best one."""
    return prepared("pretrain", epochs=5, **options)


def validation_losses(history):
    return [entry["val_loss"] for entry in history]


def test_best_hands_on_the_weights_with_the_lowest_validation_loss(tmp_path):
    seen: list[dict[str, torch.Tensor]] = []
    model, phase = worsening(select="best")
    noting = trainer(BENIGN, on_epoch=lambda *_: seen.append(weights(model)))
    losses = validation_losses(noting.run(phase, model, state_file(tmp_path)))
    best = losses.index(min(losses))
    assert 0 < best < len(losses) - 1, "the toy must have its best epoch in the middle"
    assert same(weights(model), seen[best])
    assert not same(weights(model), seen[-1])


def test_best_survives_a_resume_after_the_best_epoch(tmp_path):
    model, phase = worsening(select="best")
    losses = validation_losses(trainer(BENIGN).run(phase, model, state_file(tmp_path)))
    for epochs in (losses.index(min(losses)) + 1, len(losses)):
        path = state_file(tmp_path, f"stopped-{epochs}")
        stopped, its_phase = worsening(select="best")
        with pytest.raises(toys.StoppedError):
            trainer(BENIGN, on_epoch=toys.stop_after(epochs)).run(its_phase, stopped, path)
        resumed, its_phase = worsening(select="best")
        trainer(BENIGN).run(its_phase, resumed, path)
        assert same(weights(resumed), weights(model))


def test_last_hands_on_the_last_weights(tmp_path):
    seen: list[dict[str, torch.Tensor]] = []
    model, phase = worsening()
    noting = trainer(BENIGN, on_epoch=lambda *_: seen.append(weights(model)))
    noting.run(phase, model, state_file(tmp_path))
    assert same(weights(model), seen[-1])
    state = PhaseState.load(state_file(tmp_path))
    assert state is not None
    assert state.best is None
