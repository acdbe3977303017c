import pytest
import torch

from robustprune import objectives
from robustprune.errors import UsageError
from robustprune.training import optimizers
from robustprune.training.state import StageState
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


@pytest.mark.slow
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
    model, setting = prepared(kind, optimizer=part)
    history = toys.train(trainer(objective), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    for epochs in range(1, EPOCHS + 1):
        _, its_setting = prepared(kind, optimizer=part)
        with pytest.raises(toys.StoppedError):
            toys.train(trainer(objective, on_epoch=toys.stop_after(epochs)), its_setting, path)
    resumed, its_setting = prepared(kind, optimizer=part)
    assert toys.train(trainer(objective), its_setting, path) == history
    assert same(weights(resumed), weights(model))


def test_a_run_stopped_within_an_epoch_repeats_that_epoch(tmp_path):
    model, setting = prepared("pretrain")
    toys.train(trainer(toys.Noisy()), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    _, its_setting = prepared("pretrain")

    class Pulled(toys.Noisy):
        def __call__(self, model, images, labels, progress):
            if progress.step == STEPS + 2:
                raise toys.StoppedError
            return super().__call__(model, images, labels, progress)

    with pytest.raises(toys.StoppedError):
        toys.train(trainer(Pulled()), its_setting, path)
    state = StageState.load(path)
    assert state is not None
    assert (state.epoch, state.step) == (1, STEPS)
    resumed, its_setting = prepared("pretrain")
    toys.train(trainer(toys.Noisy()), its_setting, path)
    assert same(weights(resumed), weights(model))


def test_a_finished_stage_is_read_and_not_trained_again(tmp_path):
    model, setting = prepared("prune")
    history = toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    again, its_setting = prepared("prune")
    with toys.spied(objectives.get("benign"), "__call__") as calls:
        assert toys.train(trainer(BENIGN), its_setting, state_file(tmp_path)) == history
    assert not calls
    assert same(weights(again), weights(model))


def test_callers_hear_of_each_epoch_once_it_is_saved_and_of_old_ones_on_resume(tmp_path):
    path = state_file(tmp_path)
    heard: list[tuple[int, int]] = []

    def on_epoch(network, stage, history):
        saved = StageState.load(path)
        assert saved is not None
        heard.append((len(history), saved.epoch))
        if len(heard) == 2:
            raise toys.StoppedError

    _, setting = prepared("pretrain")
    with pytest.raises(toys.StoppedError):
        toys.train(trainer(BENIGN, on_epoch=on_epoch), setting, path)
    toys.train(trainer(BENIGN, on_epoch=on_epoch), setting, path)
    assert heard == [(1, 1), (2, 2), (2, 2), (3, 3)]


def test_the_state_of_another_network_is_refused(tmp_path):
    _, setting = prepared("pretrain")
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    _, its_setting = prepared("finetune")
    with pytest.raises(UsageError, match=r"stage\.pt is the state of another network"):
        toys.train(trainer(BENIGN), its_setting, state_file(tmp_path))


def test_a_damaged_state_is_refused(tmp_path):
    path = state_file(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"not a state")
    _, setting = prepared("pretrain")
    with pytest.raises(UsageError, match="not a readable stage state"):
        toys.train(trainer(BENIGN), setting, path)


def worsening(**options):
    """Weights soon fit the few training images by heart: the last epoch is not the best one."""
    return prepared("pretrain", epochs=5, **options)


def validation_losses(history):
    return [entry["val_loss"] for entry in history]


def test_best_hands_on_the_weights_with_the_lowest_validation_loss(tmp_path):
    seen: list[dict[str, torch.Tensor]] = []
    model, setting = worsening(select="best")
    noting = trainer(BENIGN, on_epoch=lambda *_: seen.append(weights(model)))
    losses = validation_losses(toys.train(noting, setting, state_file(tmp_path)))
    best = losses.index(min(losses))
    assert 0 < best < len(losses) - 1, "the toy must have its best epoch in the middle"
    assert same(weights(model), seen[best])
    assert not same(weights(model), seen[-1])


@pytest.mark.slow
def test_best_survives_a_resume_after_the_best_epoch(tmp_path):
    model, setting = worsening(select="best")
    losses = validation_losses(toys.train(trainer(BENIGN), setting, state_file(tmp_path)))
    for epochs in (losses.index(min(losses)) + 1, len(losses)):
        path = state_file(tmp_path, f"stopped-{epochs}")
        _, its_setting = worsening(select="best")
        with pytest.raises(toys.StoppedError):
            toys.train(trainer(BENIGN, on_epoch=toys.stop_after(epochs)), its_setting, path)
        resumed, its_setting = worsening(select="best")
        toys.train(trainer(BENIGN), its_setting, path)
        assert same(weights(resumed), weights(model))


def test_last_hands_on_the_last_weights(tmp_path):
    seen: list[dict[str, torch.Tensor]] = []
    model, setting = worsening()
    noting = trainer(BENIGN, on_epoch=lambda *_: seen.append(weights(model)))
    toys.train(noting, setting, state_file(tmp_path))
    assert same(weights(model), seen[-1])
    state = StageState.load(state_file(tmp_path))
    assert state is not None
    assert state.best is None
