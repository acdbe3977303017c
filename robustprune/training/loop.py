"""The loop. It never sees a mask: a phase says what is trainable and what to open around a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustprune.datasets import Splits
from robustprune.errors import DivergedError, UsageError
from robustprune.modes import eval_mode
from robustprune.objectives import Loss, Objective
from robustprune.seeding import derive, fork
from robustprune.training.checkpoint import PhaseState
from robustprune.training.meter import Meter
from robustprune.training.phase import Phase
from robustprune.types import Progress

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator
    from torch.optim import Optimizer

    from robustprune.tracking import Bar, Console

EXPLODED = 1e4
"""A loss above this has exploded: chance is ln(classes), and nothing comes back from here."""


class BatchObjective(nn.Module):
    """An objective of one batch as one module: what is wrapped for distribution and precision.

    DDP then sees one forward a step, however many the attack inside makes.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor, progress: Progress) -> Loss:
        """The objective's loss of the network on this batch."""
        return self.objective(self.model, images, labels, progress)


@dataclass(kw_only=True)
class Trainer:
    """Trains phases of networks of one run.

    Attributes:
        accelerator: device, precision and processes.
        objective: each phase gets a fresh copy.
        data: training images, and validation images or none.
        seed: the recipe's.
        console: where progress is shown.
        on_epoch: called with (phase, epochs finished, history) after an epoch has been saved.
        write: does what writes a phase's state, and may do it twice.
        max_steps: cut every phase after so many optimizer steps, and each validation after as many
            batches.
        memory_format: how batches of images are laid out.
    """

    accelerator: Accelerator
    objective: Objective
    data: Splits
    seed: int
    console: Console
    on_epoch: Callable[[Phase, list[dict[str, float]]], None] = lambda phase, history: None
    write: Callable[[Callable[[], None]], None] = lambda work: work()
    max_steps: int | None = None
    memory_format: torch.memory_format = torch.preserve_format

    def run(self, phase: Phase, model: nn.Module, state_path: Path) -> list[dict[str, float]]:
        """Train ``model`` in place, going on from ``state_path`` if that exists.

        Returns:
            The metrics of each epoch.

        Raises:
            DivergedError: the loss is NaN, infinite or exploding; ``state_path`` holds the last
                good epoch.
            UsageError: ``state_path`` is damaged.
        """
        return _PhaseRun(self, phase, model, state_path).run()

    def steps(self, phase: Phase) -> int:
        """Optimizer steps of a whole phase."""
        assert self.data.train is not None
        world = self.accelerator.num_processes
        batches = self.data.train.steps(phase.batch_size, world=world)
        steps = phase.epochs * batches * self.objective.repeats
        return steps if self.max_steps is None else min(steps, self.max_steps)


class _PhaseRun:
    def __init__(self, trainer: Trainer, phase: Phase, model: nn.Module, path: Path) -> None:
        self.trainer, self.phase, self.model, self.path = trainer, phase, model, path
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
        model.to(trainer.accelerator.device)
        self.optimizer: Optimizer = phase.build_optimizer()
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.state = PhaseState.load(path) or PhaseState()
        if self.state.epoch:
            self._resume()
        self._reset_scaler()
        if self.state.epoch:
            trainer.on_epoch(phase, self.state.history)

    def _resume(self) -> None:
        try:
            self.model.load_state_dict(self.state.model)
            self.optimizer.load_state_dict(self.state.optimizer)
            self.objective.load_state_dict(self.state.objective)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(
                f"{self.path} is the state of another network or optimizer ({error}). "
                "Delete it to train that phase again."
            ) from None

    def _reset_scaler(self) -> None:
        """Scale fp16 losses as after the state's epoch: accelerate's scaler outlives phases."""
        scaler = self.trainer.accelerator.scaler
        if scaler is not None:
            scaler.load_state_dict(self.state.scaler or type(scaler)().state_dict())

    def run(self) -> list[dict[str, float]]:
        accelerator = self.trainer.accelerator
        prepared = accelerator.prepare(BatchObjective(self.model, self.objective), self.optimizer)
        self.module, stepper = prepared
        # without loss scaling accelerate's wrapper adds nothing but time to a step
        self.stepper = self.optimizer if accelerator.scaler is None else stepper
        while self.state.epoch < self.phase.epochs and self.state.step < self.total:
            self._epoch()
        accelerator.free_memory()
        if self.phase.select == "best" and self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        return self.state.history

    def _epoch(self) -> None:
        metrics = self._train_epoch()
        self.phase.settle()
        if self.trainer.data.validation is not None:
            metrics |= self._validate()
        sound = all(bool(parameter.isfinite().all()) for parameter in self.phase.moving())
        if not sound or not math.isfinite(metrics.get("val_loss", 0.0)):
            self._check(math.nan)  # the last step did it: its own loss was computed before
        metrics |= self.phase.watch()
        self._save(metrics)
        self.trainer.on_epoch(self.phase, self.state.history)

    def _train_epoch(self) -> dict[str, float]:
        phase, trainer, epoch = self.phase, self.trainer, self.state.epoch
        source = trainer.data.train
        assert source is not None
        accelerator = trainer.accelerator
        meter = Meter()
        title = f"{phase.network} {phase.name} {epoch + 1}/{phase.epochs}"
        steps = min(
            source.steps(phase.batch_size, world=accelerator.num_processes)
            * self.objective.repeats,
            self.total - self.state.step,
        )
        names = (phase.network, phase.name, epoch)
        order = torch.Generator().manual_seed(derive(trainer.seed, *names, "data"))
        batches = source.batches(
            phase.batch_size,
            generator=order,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        self._train_mode()
        with fork(trainer.seed, *names), trainer.console.progress(title, steps) as bar:
            for images, labels in batches:
                images, labels = self._moved(images), labels.to(accelerator.device)
                for _ in range(self.objective.repeats):
                    if self.state.step == self.total:
                        break
                    self._step(images, labels, meter, bar)
        return meter.means(accelerator)

    def _step(self, images: Tensor, labels: Tensor, meter: Meter, bar: Bar) -> None:
        progress = self._progress(self.state.epoch, self.state.step)
        factor = self.phase.schedule(progress)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor
        loss = self._backward(images, labels, progress, meter)
        self._check(loss)
        self.objective.after_backward()
        self.stepper.step()
        self.stepper.zero_grad()
        self.state.step += 1
        bar.advance(1, loss=meter.loss, accuracy=meter.accuracy)

    def _backward(self, images: Tensor, labels: Tensor, progress: Progress, meter: Meter) -> float:
        """Gradients of the mean loss over the batch, whatever parts it is cut into."""
        parts = list(
            zip(
                images.chunk(self.phase.accumulate),
                labels.chunk(self.phase.accumulate),
                strict=True,
            )
        )
        total = 0.0
        for number, (some, their) in enumerate(parts, start=1):
            share = len(some) / len(images)
            synced = _synced(self.trainer.accelerator, self.module, last=number == len(parts))
            with synced, self.phase.materialised():  # a backward pass frees the masks' graph
                loss: Loss = self.module(some, their, progress)
                self.trainer.accelerator.backward(loss.total * share)
            value = float(loss.total.detach())
            total += share * value
            meter.add(value, loss, their)
        return total

    def _check(self, loss: float) -> None:
        if math.isfinite(loss) and loss < EXPLODED:
            return
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

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        phase, trainer, meter = self.phase, self.trainer, Meter()
        source = trainer.data.validation
        assert source is not None
        device = trainer.accelerator.device
        # as at the phase's end, so that epochs of a ramp can be compared
        progress = self._progress(phase.epochs - 1, self.total - 1)
        names = (phase.network, phase.name, self.state.epoch, "validation")
        most = None if trainer.max_steps is None else trainer.max_steps * phase.batch_size
        count = len(source) if most is None else min(most, len(source))
        title = f"{phase.network} {phase.name} {self.state.epoch + 1}/{phase.epochs} validation"
        progressing = trainer.console.progress(title, count, unit="image", brief=True)
        with (
            fork(trainer.seed, *names),
            eval_mode(self.model),
            phase.materialised(),
            progressing as bar,
        ):
            for images, labels in source.ordered(phase.batch_size, limit=most):
                with torch.enable_grad():  # objectives differentiate with respect to the images
                    images, labels = self._moved(images), labels.to(device)
                    loss = self.objective.validation_loss(self.model, images, labels, progress)
                meter.add(float(loss.total.detach()), loss, labels)
                bar.advance(len(labels), loss=meter.loss, accuracy=meter.accuracy)
        return {f"val_{name}": value for name, value in meter.means(None).items()}

    def _progress(self, epoch: int, step: int) -> Progress:
        return Progress(epoch, step, step / self.total, self.phase.epochs, self.phase.name)

    def _moved(self, images: Tensor) -> Tensor:
        device = self.trainer.accelerator.device
        return images.to(device, memory_format=self.trainer.memory_format)

    def _train_mode(self) -> None:
        self.model.train()
        for module in self.phase.frozen:
            module.eval()

    def _save(self, metrics: dict[str, float]) -> None:
        state = self.state
        state.epoch += 1
        state.model = self.model.state_dict()
        state.optimizer = self.optimizer.state_dict()
        state.objective = self.objective.state_dict()
        scaler = self.trainer.accelerator.scaler
        state.scaler = {} if scaler is None else scaler.state_dict()
        state.history.append(metrics)
        losses = [entry["val_loss"] for entry in state.history if "val_loss" in entry]
        if self.phase.select == "best" and losses and losses[-1] == min(losses):
            state.best = {name: tensor.clone() for name, tensor in state.model.items()}
        if self.trainer.accelerator.is_main_process:
            self.trainer.write(lambda: state.save(self.path))


def _synced(
    accelerator: Accelerator, module: nn.Module, *, last: bool
) -> AbstractContextManager[None]:
    """Exchange gradients between processes in a batch's last part only."""
    return nullcontext() if last else accelerator.no_sync(module)
