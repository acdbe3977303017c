"""What a stage asks of the loop: where it starts, what begins once, what may be handed on."""

import pytest
import torch

from robustprune.errors import UsageError
from robustprune.pruners import Method, Stage
from robustprune.training import schedules
from robustprune.training.state import StageState
from robustprune.types import Progress
from tests.training import toys
from tests.training.toys import BENIGN, EPOCHS, STEPS, prepared, same, state_file, trainer, weights


class Recording(Method):
    """Notes the names of the hooks that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare(self, stage, masked):
        self.calls.append("prepare")

    def begin(self, stage, masked):
        self.calls.append("begin")

    def param_groups(self, stage, masked):
        self.calls.append("param_groups")
        return super().param_groups(stage, masked)

    def train_mode(self, stage, masked):
        self.calls.append("train_mode")
        super().train_mode(stage, masked)

    def penalty(self, stage, masked, progress):
        self.calls.append("penalty")

    def step(self, stage, masked, closure, optimizer, progress):
        self.calls.append("step")
        return super().step(stage, masked, closure, optimizer, progress)

    def after_step(self, stage, masked, optimizer, progress):
        self.calls.append("after_step")
        super().after_step(stage, masked, optimizer, progress)

    def select(self, stage, masked):
        self.calls.append("select")

    def after_epoch(self, stage, masked, optimizer, progress, metrics):
        assert {"loss", "val_loss"} <= metrics.keys()
        self.calls.append("after_epoch")
        return {"epochs": progress.epoch + 1.0}


def test_the_hooks_of_a_stage_are_called_in_this_order(tmp_path):
    _, setting = prepared("pretrain", epochs=2, batch_size=7)
    method = Recording()
    history = toys.train(trainer(BENIGN), setting._replace(method=method), state_file(tmp_path))
    step = ["step", "penalty", "after_step", "select"]
    epoch = ["train_mode", *step, *step, "after_epoch"]
    assert method.calls == ["prepare", "param_groups", "begin", *epoch, *epoch]
    assert [entry["epochs"] for entry in history] == [1, 2]


def test_a_resumed_stage_is_prepared_and_does_not_begin_again(tmp_path):
    path = state_file(tmp_path)
    _, setting = prepared("pretrain")
    with pytest.raises(toys.StoppedError):
        toys.train(trainer(BENIGN, on_epoch=toys.stop_after(EPOCHS - 1)), setting, path)
    _, setting = prepared("pretrain")
    method = Recording()
    toys.train(trainer(BENIGN), setting._replace(method=method), path)
    assert method.calls[:3] == ["prepare", "param_groups", "train_mode"]
    assert "begin" not in method.calls


@pytest.mark.parametrize("kind", ["prune", "finetune", "dynamic"])
def test_a_stage_without_options_begins_and_trains_nothing(tmp_path, kind):
    told, found = [], []
    for _ in range(2):  # the second one resumes
        model, setting = prepared(kind)
        before = {name: weight.clone() for name, weight in setting.masked.weights.items()}
        stage = Stage("only", None) if kind != "prune" else Stage("prune", None)
        run = trainer(BENIGN, on_epoch=lambda *args: told.append(args))
        with toys.spied(type(setting.method), "begin") as begins:
            history = toys.train(run, setting._replace(stage=stage), state_file(tmp_path))
        assert history == []
        assert all(torch.equal(setting.masked.weights[n], w) for n, w in before.items())
        assert setting.masked.kept == round(0.3 * 108) + round(0.3 * 288)
        found.append((weights(model), len(begins), setting.masked.turnover))
    assert same(found[0][0], found[1][0])
    assert [begins for _, begins, _ in found] == [1, 0]
    assert not told


def test_a_begin_that_was_interrupted_is_run_again(tmp_path):
    model, setting = prepared("dynamic", epochs=1)
    toys.train(trainer(BENIGN), setting, state_file(tmp_path))
    path = state_file(tmp_path, "stopped")

    class Pulled(toys.RestlessMethod):
        def begin(self, stage, masked):
            super().begin(stage, masked)
            raise toys.StoppedError

    _, stopped = prepared("dynamic", epochs=1)
    stopped.method.__class__ = Pulled
    with pytest.raises(toys.StoppedError):
        toys.train(trainer(BENIGN), stopped, path)
    assert not path.exists()
    resumed, its_setting = prepared("dynamic", epochs=1)
    toys.train(trainer(BENIGN), its_setting, path)
    assert its_setting.method.begins == 1
    assert same(weights(resumed), weights(model))


def test_a_stage_that_starts_late_goes_on_as_if_it_had_come_so_far(tmp_path):
    """Schedule, epoch numbers and the order of the data; ramps see the same progress."""
    found = {}
    for start in (0, 1):
        seen: list[tuple[Progress, list[int]]] = []

        class Noting(toys.Noisy):
            def __call__(self, model, images, labels, progress, seen=seen):
                if model.training:
                    seen.append((progress, labels.tolist()))
                return super().__call__(model, images, labels, progress)

        spy = toys.Spy(lr=0.3)
        schedule = schedules.create("warmup", share=0.25)
        _, setting = prepared("pretrain", optimizer=spy, schedule=schedule)
        setting = setting._replace(stage=setting.stage._replace(start=start))
        path = state_file(tmp_path, str(start))
        history = toys.train(trainer(Noting()), setting, path)
        assert len(history) == EPOCHS - start
        state = StageState.load(path)
        assert (state.epoch, state.step) == (EPOCHS, EPOCHS * STEPS)
        found[start] = (seen, spy._rates)
    (whole, rates), (late, its_rates) = found[0], found[1]
    assert late == whole[STEPS:]
    assert its_rates == rates[STEPS:]
    assert late[0][0] == Progress(1, STEPS, 1 / EPOCHS, EPOCHS, "pretrain")


@pytest.mark.parametrize("stop", [2, 3])
def test_a_late_stage_is_resumed_too(tmp_path, stop):
    ends = []
    for stopping in (False, True):
        path = state_file(tmp_path, str(stopping))
        for on_epoch in ([toys.stop_after(stop - 1)] if stopping else []) + [lambda *_: None]:
            model, setting = prepared("dynamic")
            setting = setting._replace(stage=setting.stage._replace(start=1))
            try:
                history = toys.train(trainer(BENIGN, on_epoch=on_epoch), setting, path)
            except toys.StoppedError:
                continue
        ends.append((weights(model), history))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_cutting_a_late_stage_counts_from_its_start(tmp_path):
    spy = toys.Spy(lr=0.1)
    _, setting = prepared("pretrain", optimizer=spy)
    setting = setting._replace(stage=setting.stage._replace(start=1))
    toys.train(trainer(BENIGN, max_steps=1), setting, state_file(tmp_path))
    assert len(spy._rates) == 1


@pytest.mark.parametrize("allowed", [{2}, {0, 2}, {1}, set()])
def test_best_takes_only_what_is_eligible(tmp_path, allowed):
    class Choosy(Method):
        epoch = -1

        def after_epoch(self, stage, masked, optimizer, progress, metrics):
            self.epoch += 1
            return {}

        def eligible(self, stage, masked):
            return self.epoch in allowed

    seen = []
    model, setting = prepared("pretrain", select="best")
    run = trainer(BENIGN, on_epoch=lambda *_: seen.append(weights(model)))
    history = toys.train(run, setting._replace(method=Choosy()), state_file(tmp_path))
    losses = [entry["val_loss"] for entry in history]
    expected = min(allowed, key=lambda epoch: losses[epoch], default=-1)
    assert same(weights(model), seen[expected])


class Alone(toys.Noisy):
    """Defines its call alone."""


@pytest.mark.parametrize("kind", ["prune", "finetune"])
def test_sharpness_refuses_what_cannot_take_two_passes_before_anything_begins(tmp_path, kind):
    for objective, words in ((Alone(), "define attack"), (toys.FREE, "moves its noise")):
        _, setting = prepared(kind, pruner={"sharpness": {"radius": 0.1}})
        with pytest.raises(UsageError, match=words):
            toys.train(trainer(objective), setting, state_file(tmp_path))
        assert setting.masked.initial is None
        assert not state_file(tmp_path).exists()
