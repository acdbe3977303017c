import math

import pytest
import torch

from robustprune.errors import DivergedError
from robustprune.training.state import StageState
from robustprune.training.step import EXPLODED
from tests.training import toys
from tests.training.toys import (
    KINDS,
    STEPS,
    prepared,
    same,
    state_file,
    trainer,
    weights,
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, EXPLODED, 1e30])
def test_a_loss_that_is_no_loss_any_more_stops_the_run(tmp_path, value):
    seen: list[dict[str, torch.Tensor]] = []
    model, setting = prepared("finetune")
    path = state_file(tmp_path)
    cursed = trainer(
        toys.Cursed(at=2 * STEPS + 1, value=value),
        toys.splits(validation=False),
        on_epoch=lambda *_: seen.append(weights(model)),
    )
    with pytest.raises(DivergedError) as error:
        toys.train(cursed, setting, path)
    message = str(error.value)
    assert f"finetune epoch 3, step {2 * STEPS + 2}" in message
    assert f"after epoch 2 is kept in {path}" in message
    assert "finetune.optimizer.lr=0.01" in message
    state = StageState.load(path)
    assert state is not None
    assert (state.epoch, state.step) == (2, 2 * STEPS)
    assert same(state.model, seen[1])


def test_a_loss_just_below_the_limit_is_still_one(tmp_path):
    _, setting = prepared("pretrain", epochs=1)
    just = toys.Cursed(at=0, value=EXPLODED - 1)
    history = toys.train(
        trainer(just, toys.splits(validation=False)), setting, state_file(tmp_path)
    )
    assert len(history) == 1


def test_a_first_epoch_that_diverges_leaves_what_it_began_with(tmp_path):
    _, setting = prepared("pretrain")
    with pytest.raises(DivergedError, match="nothing is lost"):
        toys.train(trainer(toys.Cursed(at=1, value=math.nan)), setting, state_file(tmp_path))
    state = StageState.load(state_file(tmp_path))
    assert state is not None
    assert (state.begun, state.epoch, state.step, state.history) == (True, 0, 0, [])
    assert same(state.model, weights(prepared("pretrain")[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [True, False])
def test_an_epoch_whose_last_step_ruined_the_weights_is_not_saved(tmp_path, kind, validation):
    class Last(toys.Noisy):
        def __call__(self, model, images, labels, progress):
            loss = super().__call__(model, images, labels, progress)
            total = loss.total
            if progress.step == 2 * STEPS - 1:
                total.register_hook(lambda grad: grad * math.nan)  # finite, its gradient is not
            return loss

    _, setting = prepared(kind)
    with pytest.raises(DivergedError):
        toys.train(
            trainer(Last(), toys.splits(validation=validation)), setting, state_file(tmp_path)
        )
    state = StageState.load(state_file(tmp_path))
    assert state is not None
    assert state.epoch == 1
    assert all(bool(tensor.isfinite().all()) for tensor in state.model.values())
