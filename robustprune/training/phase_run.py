"""One phase at work: its epochs, what is measured at the end of each, and its state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustprune.datasets.source import Source, TrainingBatch
from robustprune.errors import DivergedError, PeerError, UsageError
from robustprune.modes import eval_mode
from robustprune.seeding import capture, derive, fork, restore
from robustprune.stopping import orderly
from robustprune.training.agreement import (
    average_statistics,
    check_same,
    learns_statistics,
    same_draws,
)
from robustprune.training.checkpoint import PhaseState
from robustprune.training.meter import Meter
from robustprune.training.phase import Phase
from robustprune.training.step import Stepper, checked
from robustprune.types import Progress

if TYPE_CHECKING:
    from robustprune.tracking import Bar
    from robustprune.training.loop import Trainer

EXPLODED = 1e4
"""A loss above this has exploded: chance is ln(classes), and nothing comes back from here."""


class PhaseRun:
    """Trains one network through one phase; see `robustprune.training.loop.Trainer.run`."""

    def __init__(self, trainer: Trainer, phase: Phase, model: nn.Module, path: Path) -> None:
        self.trainer, self.phase, self.model, self.path = trainer, phase, model, path
        self.shard, self.accelerator = trainer.shard, trainer.accelerator
        self.total = trainer.steps(phase)
        self.objective = trainer.objective.fresh()
        if phase.accumulate > 1 and self.objective.repeats > 1:
            raise UsageError(
                f"objective '{self.objective.registered_name}' takes several steps on a batch, "
                f"which cannot be cut into {phase.accumulate} parts: use {phase.name}.accumulate=1."
            )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in phase.moving():
            parameter.requires_grad_(True)
        model.to(self.accelerator.device)
        self.stepper = Stepper(
            self.accelerator, phase, model, self.objective, synchronise=trainer.synchronise
        )
        self._told_of_draws = False
        self.state = self.shard.lead(lambda: PhaseState.load(path)) or PhaseState()
        if self.state.step:
            self.shard.together(self._resume)
        self._reset_scaler()
        if self.state.epoch:
            self.shard.lead(lambda: trainer.on_epoch(phase, self.state.history))

    def run(self) -> list[dict[str, float]]:
        """Train to the phase's end, and return the metrics of each epoch."""
        self.stepper.prepare()
        with orderly() as self._asked:
            while self.state.epoch < self.phase.epochs and not self._finished:
                self._epoch()
        self.accelerator.free_memory()
        if self.phase.select == "best" and self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        return self.state.history

    @property
    def _finished(self) -> bool:
        return self.state.step >= self.total and self.state.batch == 0

    def _resume(self) -> None:
        try:
            self.model.load_state_dict(self.state.model)
            self.stepper.optimizer.load_state_dict(self.state.optimizer)
            self.objective.load_state_dict(self.state.objective)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(
                f"{self.path} is the state of another network or optimizer ({error}). "
                "Delete it to train that phase again."
            ) from None

    def _reset_scaler(self) -> None:
        """Scale fp16 losses as after the state's step: accelerate's scaler outlives phases."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.load_state_dict(self.state.scaler or type(scaler)().state_dict())

    def _epoch(self) -> None:
        meter, drawn = self._train()
        metrics = meter.means(self.shard)
        self.phase.settle()
        if self._local:
            average_statistics(self.model, self.accelerator)
        if self.trainer.data.validation is not None:
            found = self._validate(self.trainer.data.validation)
            if found is None:
                self._pause(meter, drawn)
                raise KeyboardInterrupt
            metrics |= found
        sound = all(bool(parameter.isfinite().all()) for parameter in self.phase.moving())
        if not sound or not math.isfinite(metrics.get("val_loss", 0.0)):
            self._check(math.nan)  # the last step did it: its own loss was computed before
        metrics |= self.phase.watch()
        check_same(self.model, self.shard, when=f"{self._title} has ended: now")
        self._finish_epoch(metrics)
        self._save()
        self.shard.lead(lambda: self.trainer.on_epoch(self.phase, self.state.history))
        if any(self.shard.gather(self._asked())):
            raise KeyboardInterrupt

    def _train(self) -> tuple[Meter, dict[str, Any]]:
        """Take the epoch's steps, from the first or from where it was interrupted.

        Returns:
            What was measured, and the state of the generators after the last step.
        """
        source, state, seed = self.trainer.data.train, self.state, self.trainer.seed
        assert source is not None
        names = (self.phase.network, self.phase.name, state.epoch)
        rank, world = self.shard.rank, self.shard.world
        meter = Meter.resumed(state.sums, rank=rank, world=world) if state.sums else Meter()
        batches = source.batches(
            self.phase.batch_size,
            generator=torch.Generator().manual_seed(derive(seed, *names, "data")),
            rank=rank,
            world=world,
            start=state.batch,
        )
        self._train_mode()
        steps = self._steps_left(source)
        with fork(seed, *names), self.trainer.console.progress(self._title, steps) as bar:
            if state.random:
                restore(state.random)
            for batch in batches:
                if state.step == self.total:
                    break
                self._learn(batch, meter, bar)
            self._check_draws()
            return meter, capture()

    def _steps_left(self, source: Source) -> int:
        batches = source.steps(self.phase.batch_size, world=self.shard.world) - self.state.batch
        return min(batches * self.objective.repeats, self.total - self.state.step)

    def _learn(self, batch: TrainingBatch, meter: Meter, bar: Bar) -> None:
        """Take a batch's steps, and stop after them if that is asked for."""
        images, labels = self._moved(batch.images), batch.labels.to(self.accelerator.device)
        stop = False
        for _ in range(self.objective.repeats):
            if self.state.step == self.total:
                break
            stop = self._step(TrainingBatch(images, labels, batch.rows), meter, bar) or stop
        self.state.batch += 1
        if stop:
            self._pause(meter, capture())
            raise KeyboardInterrupt

    def _step(self, batch: TrainingBatch, meter: Meter, bar: Bar) -> bool:
        """One optimizer step; whether some process has been asked to stop."""
        progress = self._progress(self.state.epoch, self.state.step)
        taken = self.stepper.gradients(batch, progress, meter, asked=self._asked)
        self._check(taken.loss)
        self.objective.after_backward()
        self.stepper.update()
        self.state.step += 1
        bar.advance(1, loss=meter.loss, accuracy=meter.accuracy)
        return taken.stop

    def _check(self, loss: float) -> None:
        """Stop all processes, whose loss is the same, before a bad step."""
        if math.isfinite(loss) and loss < EXPLODED:
            return
        if not self.shard.is_main:
            raise PeerError(0)
        phase, key, epoch = self.phase, f"{self.phase.name}.optimizer.lr", self.state.epoch
        kept = (
            f"the state after epoch {epoch} is kept in {self.path}" if epoch else "nothing is lost"
        )
        raise DivergedError(
            f"{phase.network}: the loss of {phase.name} epoch {epoch + 1}, step "
            f"{self.state.step + 1} is {loss:.4g}; {kept}. "
            f"Try a lower learning rate (--set {key}={phase.optimizer.lr / 10:g}), a warm-up "
            f"(--set {phase.name}.schedule.name=warmup) or precision fp32, in a new run."
        )

    def _check_draws(self) -> None:
        """Say once a phase that something is drawn in a way that `WholeBatch` does not know."""
        if self.shard.world == 1:
            return
        same = same_draws(self.shard)  # asked by every process, whatever it was told before
        if not self._told_of_draws and (not same or self.stepper.foreign):
            self._told_of_draws = True
            what = f" by {', '.join(sorted(self.stepper.foreign))}" if self.stepper.foreign else ""
            self.trainer.console.warn(
                f"{self._title}: what is drawn{what} depends on the number of processes, and so "
                "does this network."
            )

    @torch.no_grad()
    def _validate(self, source: Source) -> dict[str, float] | None:
        """The loss by which epochs are compared, each process judging some of the batches.

        None if some process was asked to stop meanwhile.
        """
        phase, trainer, meter = self.phase, self.trainer, Meter()
        # as at the phase's end, so that epochs of a ramp can be compared
        progress = self._progress(phase.epochs - 1, self.total - 1)
        names = (phase.network, phase.name, self.state.epoch, "validation")
        most = None if trainer.max_steps is None else trainer.max_steps * phase.batch_size
        count = len(source) if most is None else min(most, len(source))
        progressing = trainer.console.progress(
            f"{self._title} validation", count, unit="image", brief=True
        )
        rank, world = self.shard.rank, self.shard.world
        with eval_mode(self.model), phase.materialised(), progressing as bar:
            for number, (images, labels) in enumerate(source.ordered(phase.batch_size, limit=most)):
                if number % world == rank:
                    with fork(trainer.seed, *names, number):
                        self._judge(images, labels, progress, meter)
                bar.advance(len(labels), loss=meter.loss, accuracy=meter.accuracy)
                if number % world == world - 1 and any(self.shard.gather(self._asked())):
                    return None
        return {f"val_{name}": value for name, value in meter.means(self.shard).items()}

    def _judge(self, images: Tensor, labels: Tensor, progress: Progress, meter: Meter) -> None:
        images, labels = self._moved(images), labels.to(self.accelerator.device)
        with torch.enable_grad():  # objectives differentiate with respect to the images
            found = self.objective.validation_loss(self.model, images, labels, progress)
        loss = checked(self.objective, found, labels)
        meter.add(float(loss.total.detach()), loss, labels)

    @property
    def _title(self) -> str:
        phase = self.phase
        return f"{phase.network} {phase.name} {self.state.epoch + 1}/{phase.epochs}"

    def _progress(self, epoch: int, step: int) -> Progress:
        return Progress(epoch, step, step / self.total, self.phase.epochs, self.phase.name)

    def _moved(self, images: Tensor) -> Tensor:
        return images.to(self.accelerator.device, memory_format=self.trainer.memory_format)

    def _train_mode(self) -> None:
        self.model.train()
        for module in self.phase.frozen:
            module.eval()

    def _finish_epoch(self, metrics: dict[str, float]) -> None:
        state = self.state
        state.epoch += 1
        state.batch, state.sums, state.random = 0, [], {}
        state.history.append(metrics)
        losses = [entry["val_loss"] for entry in state.history if "val_loss" in entry]
        if self.phase.select == "best" and losses and losses[-1] == min(losses):
            model = self.model.state_dict()
            state.best = {name: tensor.clone() for name, tensor in model.items()}

    @property
    def _local(self) -> bool:
        """Whether each process has running statistics of its own until the epoch ends."""
        alone = self.trainer.synchronise or self.shard.world == 1
        return not alone and learns_statistics(self.model)

    def _pause(self, meter: Meter, drawn: dict[str, Any]) -> None:
        """Save the state within an epoch, where what follows would be the same to the bit."""
        if self._local:
            return  # the statistics of the other processes would be lost: the epoch is begun again
        self.state.sums, self.state.random = self.shard.gather(meter.sums), drawn
        self._save()

    def _save(self) -> None:
        state, scaler = self.state, self.accelerator.scaler
        state.model = self.model.state_dict()
        state.optimizer = self.stepper.optimizer.state_dict()
        state.objective = self.objective.merged(self.shard.gather(self.objective.state_dict()))
        state.scaler = {} if scaler is None else scaler.state_dict()
        self.shard.lead(lambda: self.trainer.write(lambda: state.save(self.path)))
