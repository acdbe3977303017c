"""A training that is asked to stop ends its step, and goes on from there to the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune import objectives
from robustprune.errors import PeerError
from robustprune.objectives import Loss, Objective
from robustprune.stopping import stoppable
from robustprune.training.distributed import check_same
from robustprune.training.state import StageState
from robustprune.types import Progress
from tests.threads import each
from tests.training import toys
from tests.training.toys import EPOCHS, STEPS, prepared, same, state_file, trainer, weights


def stopping(objective: Objective, at: int) -> Objective:
    """The same objective; a signal arrives during its step ``at``."""

    class Stopping(type(objective)):  # type: ignore[misc]
        def __call__(
            self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
        ) -> Loss:
            if progress.step == at and torch.is_grad_enabled() and model.training:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(model, images, labels, progress)  # type: ignore[no-any-return]

    return Stopping(**{k: v for k, v in dict(objective).items() if k != "name"})


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, STEPS - 1, STEPS, STEPS * EPOCHS - 1])
@pytest.mark.parametrize("kind", toys.KINDS)
def test_it_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, kind: str, at: int) -> None:
    model, setting = prepared(kind)
    history = toys.train(trainer(toys.Noisy()), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    _, its_setting = prepared(kind)
    with pytest.raises(KeyboardInterrupt), stoppable():
        toys.train(trainer(stopping(toys.Noisy(), at)), its_setting, path)
    state = StageState.load(path)
    assert state is not None
    assert state.step == at + 1
    resumed, its_setting = prepared(kind)
    with toys.spied(type(its_setting.stage.options.schedule), "__call__") as steps:
        assert toys.train(trainer(toys.Noisy()), its_setting, path) == history
    assert len(steps) == STEPS * EPOCHS - at - 1
    assert same(weights(resumed), weights(model))


@pytest.mark.slow
def test_steps_on_one_batch_are_not_torn_apart(tmp_path: Path) -> None:
    free = objectives.create("free", eps=0.1, replays=2)
    model, setting = prepared("pretrain")
    history = toys.train(trainer(free), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    _, its_setting = prepared("pretrain")
    with pytest.raises(KeyboardInterrupt), stoppable():
        toys.train(trainer(stopping(free, 4)), its_setting, path)
    state = StageState.load(path)
    assert state is not None
    assert (state.step, state.batch) == (6, 3)
    resumed, its_setting = prepared("pretrain")
    assert toys.train(trainer(free), its_setting, path) == history
    assert same(weights(resumed), weights(model))


@pytest.mark.parametrize("kind", toys.KINDS)
def test_a_stop_during_validation_keeps_the_epoch_s_steps(tmp_path: Path, kind: str) -> None:
    judged = []

    class Stopped(toys.Noisy):
        def validation_loss(self, *args: Any) -> Loss:
            judged.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            return super().validation_loss(*args)

    model, setting = prepared(kind)
    history = toys.train(trainer(toys.Noisy()), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")
    _, its_setting = prepared(kind)
    with pytest.raises(KeyboardInterrupt), stoppable():
        toys.train(trainer(Stopped()), its_setting, path)
    assert judged == [1]
    state = StageState.load(path)
    assert state is not None
    assert (state.epoch, state.batch, len(state.history)) == (0, STEPS, 0)
    resumed, its_setting = prepared(kind)
    assert toys.train(trainer(toys.Noisy()), its_setting, path) == history
    assert same(weights(resumed), weights(model))


def test_processes_that_differ_are_told_by_the_main_one() -> None:
    networks = [toys.network_of() for _ in range(3)]
    networks[2][0].weight.data[0, 0, 0, 0] += 1e-7
    when = "epoch 1 has ended: now"
    told, *others = each(3, lambda shard: check_same(networks[shard.rank], shard, when=when))
    assert isinstance(told, RuntimeError)
    assert str(told).startswith("epoch 1 has ended: now, process 2 of 3 has another network")
    assert all(isinstance(other, PeerError) for other in others)


def test_processes_that_agree_go_on() -> None:
    networks = [toys.network_of() for _ in range(3)]
    assert each(3, lambda shard: check_same(networks[shard.rank], shard, when="")) == [None] * 3
