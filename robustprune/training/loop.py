"""The loop: every stage of every network is trained here, from top to bottom.

It never decides a mask: the method does, in the hooks that are called here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from robustprune.datasets import Splits
from robustprune.datasets.source import Source, TrainingBatch
from robustprune.errors import ContractError, DivergedError, PeerError, UsageError
from robustprune.files import write_json
from robustprune.inference.training import SparseTraining
from robustprune.masking import MaskedModel
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Method, Pruner, Stage
from robustprune.recipe import StageOptions
from robustprune.seeding import capture, derive, fork, restore
from robustprune.shard import Shard
from robustprune.stopping import orderly
from robustprune.tracking import Console
from robustprune.train_mode import eval_mode, statistics
from robustprune.training.distributed import (
    average_statistics,
    check_same,
    synchronised,
)
from robustprune.training.state import StageState
from robustprune.training.step import ExplodedError, LossScale, Meter, Stepper, checked
from robustprune.types import Progress

History = list[dict[str, float]]
"""The metrics of each epoch."""
State = dict[str, Tensor]


@dataclass(kw_only=True)
class Trainer:
    """Trains stages of networks of one run.

    With several processes each one calls `train`, and all of them end with the same network.

    Attributes:
        accelerator: device, precision and processes.
        objective: of stages that name none; each stage gets a fresh copy.
        data: training images, and validation images or none.
        seed: the recipe's.
        console: where progress is shown.
        on_epoch: called with (network, stage, history) after an epoch has been saved, in the main
            process only.
        max_steps: cut every stage after so many optimizer steps, and each validation after as many
            batches.
        memory_format: how batches of images are laid out.
        shard: this process among those of the accelerator.
        scales: scale losses, as fp16 needs.
        sparse: from (network, stage) to the file of what sparse kernels are used for; None: they
            are not used. Else stages whose masks stand still are trained through them.
    """

    accelerator: Accelerator
    objective: Objective
    data: Splits
    seed: int
    console: Console
    on_epoch: Callable[[str, Stage, History], None] = lambda network, stage, history: None
    max_steps: int | None = None
    memory_format: torch.memory_format = torch.preserve_format
    shard: Shard = field(default_factory=Shard)
    scales: bool = False
    sparse: Callable[[str, Stage], Path] | None = None

    def train(
        self,
        network: str,
        stage: Stage,
        masked: MaskedModel,
        method: Method,
        path: Path,
        *,
        keep: Mapping[int, Path] | None = None,
    ) -> History:
        """Take a network through a stage, in place, going on from ``path`` if that exists.

        Args:
            network: its name in the run, e.g. ``hydra-0.01``.
            stage: what is trained, and how.
            masked: the network.
            method: decides its masks.
            path: where the state is kept.
            keep: files for the weights after some epochs.

        Returns:
            The metrics of each epoch.

        Raises:
            DivergedError: the loss is NaN, infinite or exploding; ``path`` holds the last good
                epoch.
            UsageError: ``path`` is damaged, or the method and the objective do not fit.
            KeyboardInterrupt: it was asked to stop; ``path`` holds everything up to then.
            PeerError: another process failed, and says why.
        """
        return _Run(self, network, stage, masked, method, path, keep or {}).run()


def steps_of(
    options: StageOptions, data: Splits, objective: Objective, *, seed: int, world: int = 1
) -> int:
    """Optimizer steps of one epoch of a stage.

    Args:
        options: the stage's.
        data: what there is to learn from, of which the stage takes a share.
        objective: may take several steps on a batch.
        seed: the recipe's.
        world: the number of processes.
    """
    source = data.part(options.share, seed=seed).train
    assert source is not None
    return source.steps(options.batch_size, world=world) * objective.repeats


@dataclass
class _Run:
    """One network in one stage; see `Trainer.train`."""

    trainer: Trainer
    network: str
    stage: Stage
    masked: MaskedModel
    method: Method
    path: Path
    keep: Mapping[int, Path]

    def __post_init__(self) -> None:
        trainer, options = self.trainer, self.stage.options
        self.model, self.shard = self.masked.model, trainer.shard
        self.accelerator, self.device = trainer.accelerator, trainer.accelerator.device
        own = None if options is None else options.objective
        self.objective: Objective = (trainer.objective if own is None else own).fresh()  # type: ignore[attr-defined]
        self.scale = LossScale(enabled=trainer.scales)
        self.optimizer: torch.optim.Optimizer | None = None

    # -- the stage ---------------------------------------------------------------------------------

    def run(self) -> History:
        """Begin or go on, and train to the stage's end."""
        options = self.stage.options
        self._check_fit()
        self.model.to(self.device)
        self.method.prepare(self.stage, self.masked)
        self.model.to(self.device)
        self._plan()
        if options is not None:
            self._build_optimizer(options)
        self.state = self.shard.lead(lambda: StageState.load(self.path)) or StageState()
        if self.state.begun:
            self.shard.together(self._resume)
        else:
            self._begin()
        if options is None:
            return self.state.history
        if self.state.history:
            self.shard.lead(self._tell)
        self.shown = self._through()
        on_gpus = self.shard.world > 1 and self.device.type == "cuda"
        with synchronised(self.model, wanted=on_gpus), orderly() as self._asked:
            self.stepper = Stepper(
                self.accelerator,
                self.masked,
                self.shown,
                self.method,
                self.stage,
                self.objective,
                self._optimizer,
                self.scale,
                self._asked,
            )
            # also to the end of the epoch that the last step was in
            while self.state.epoch < self.epochs and (not self._finished or self.state.batch):
                if not self.state.batch and self.method.finished(self.stage, self.masked):
                    break
                self._epoch()
            self.accelerator.free_memory()
        for epoch in self.keep:
            if epoch > self.state.epoch:  # a stage that is cut: what it ends with stands for them
                self._keep(epoch)
        if options.select == "best" and self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        return self.state.history

    def _through(self) -> nn.Module:
        """The network as objectives are shown it: itself, or through sparse kernels.

        What kernels are used for is read from its file, or else measured in the main process and
        written there before it is first used: bits depend on it.
        """
        trainer, pruner = self.trainer, self.method.pruner
        still = isinstance(pruner, Pruner) and pruner.stands_still(self.stage.name)
        if trainer.sparse is None or not still:
            return self.model
        self.masks = self.masked.masks
        images = self._example()
        path = trainer.sparse(self.network, self.stage)

        def choices() -> dict[str, Any]:
            if not path.exists():
                write_json(path, SparseTraining(self.model, self.masked, images).choices)
            try:
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"{path} cannot be read ({error}). Delete it, and what it says is measured "
                    "again: the stage goes on to other bits."
                ) from None
            return found

        chosen = self.shard.lead(choices)
        return SparseTraining(self.model, self.masked, images, choices=chosen)

    def _check_still(self) -> None:
        """Make sure that masks that sparse kernels have taken over have not moved."""
        if self.shown is self.model:
            return
        now = self.masked.masks
        if any(not torch.equal(mask, now[name]) for name, mask in self.masks.items()):
            pruner, stage = self.method.pruner, self.stage.name
            raise ContractError(
                pruner,
                f"pruner '{pruner.variant}' says that its masks stand still in '{stage}', and has "
                "moved them: leave the stage out of its 'still', or set compute.sparse: auto.",
            )

    def _example(self) -> Tensor:
        """As many images as an objective gets at once."""
        source = self.data.train
        assert source is not None
        total = self._options.batch_size + int(getattr(source, "per_batch", 0))
        count = max(total // self._options.accumulate // self.shard.world, 1)
        images, labels = next(iter(source.ordered(count, limit=count)))
        return self._moved(images, labels)[0]

    def _check_fit(self) -> None:
        """Refuse what the stage cannot do with its objective, before anything is changed."""
        name, options = self.objective.registered_name, self.stage.options
        if options is not None and options.accumulate > 1 and self.objective.repeats > 1:
            raise UsageError(
                f"objective '{name}' takes several steps on a batch, which cannot be cut into "
                f"{options.accumulate} parts: use {self.stage.name}.accumulate=1."
            )
        if isinstance(self.method.pruner, Pruner):
            for problem in self.method.pruner.problems(self.stage, self.objective):
                raise UsageError(f"pruner '{self.method.pruner.variant}': {problem}.")

    def _plan(self) -> None:
        """Count the stage's epochs and steps; those before its start count as done."""
        options, trainer, start = self.stage.options, self.trainer, self.stage.start
        self.epochs = start if options is None else options.epochs
        self.total = self.first = 0
        if options is None:
            return
        self.data = trainer.data.part(options.share, seed=trainer.seed)
        world = self.shard.world
        each = steps_of(options, trainer.data, self.objective, seed=trainer.seed, world=world)
        self.first, self.total = start * each, options.epochs * each
        if trainer.max_steps is not None:
            self.total = min(self.total, self.first + trainer.max_steps)

    def _build_optimizer(self, options: StageOptions) -> None:
        groups = self.method.param_groups(self.stage, self.masked)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self.optimizer = options.optimizer.built(groups)  # type: ignore[attr-defined]
        for group in self._optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    def _begin(self) -> None:
        """Let the method begin, make all processes have what process 0 has, and save."""
        self.state = StageState(begun=True, epoch=self.stage.start, step=self.first)
        self.shard.together(lambda: self.method.begin(self.stage, self.masked))
        if self.shard.world > 1:
            self._take_over(*self.shard.broadcast(self._handed()))
        self._save()

    def _resume(self) -> None:
        state = self.state
        try:
            self._take_over(state.model, state.initial, state.method)
            if self.optimizer is not None:
                self.optimizer.load_state_dict(state.optimizer)
            if state.generator is not None and self.method._context is not None:
                self.method.context.generator.set_state(state.generator)
            self.scale.load_state_dict(state.scale)
            if mine := self._of_process:
                self.objective.load_state_dict(mine["objective"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(
                f"{self.path} is the state of another network or optimizer ({error}). "
                "Delete it to train that stage again."
            ) from None

    def _handed(self) -> tuple[State, State | None, dict[str, Any]]:
        return self.model.state_dict(), self.masked.initial, self.method.state_dict()

    def _take_over(self, model: State, initial: State | None, method: dict[str, Any]) -> None:
        self.model.load_state_dict(model)
        self.masked.initial = initial and {n: mask.to(self.device) for n, mask in initial.items()}
        on_device = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), method)
        self.method.load_state_dict(on_device)

    # -- an epoch ----------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train, validate, let the method see, check, save."""
        meter, drawn = self._train()
        metrics = meter.means(self.shard)
        if self.shard.world > 1:
            average_statistics(self.model, self.accelerator)
        if self.data.validation is not None:
            validated = self._validate(self.data.validation)
            if validated is None:
                self._pause(meter, drawn)
            metrics |= validated
        self._check_sound(metrics)
        progress = self._progress(self.state.epoch, self.state.step)
        metrics |= self.method.after_epoch(
            self.stage, self.masked, self._optimizer, progress, metrics
        )
        self._check_still()
        check_same(self.model, self.shard, when=f"{self._title} has ended: now")
        self._finish_epoch(metrics)
        self._save()
        self.shard.lead(self._tell)
        if any(self.shard.gather(self._asked.arrived)):
            raise KeyboardInterrupt

    def _train(self) -> tuple[Meter, dict[str, Any]]:
        """Take the epoch's steps, from the first or from where it was interrupted.

        Returns:
            What was measured, and the state of the generators after the last step.
        """
        state, seed, rank, world = self.state, self.trainer.seed, self.shard.rank, self.shard.world
        source, names = self.data.train, (self.network, self.stage.name, state.epoch)
        assert source is not None
        batches = source.batches(
            self._options.batch_size,
            generator=torch.Generator().manual_seed(derive(seed, *names, "data")),
            rank=rank,
            world=world,
            start=state.batch,
        )
        self.method.train_mode(self.stage, self.masked)
        mine = self._of_process if state.batch else None
        meter = Meter.of([mine["sums"]]) if mine else Meter()
        left = source.steps(self._options.batch_size, world=world) - state.batch
        left = min(left * self.objective.repeats, self.total - state.step)
        part = (self.network, self.stage.name, state.step - self.first)
        progressing = self.trainer.console.progress(self._title, left, part=part)
        with fork(seed, *names, rank), progressing as bar:
            if mine:
                restore(mine["random"])
                for name, tensor in statistics(self.model).items():
                    tensor.copy_(mine["statistics"][name])
            for batch in batches:
                if self._finished:
                    break
                self._learn(batch, meter, bar)
            return meter, capture()

    def _learn(self, batch: TrainingBatch, meter: Meter, bar: Any) -> None:
        """Take a batch's steps, and stop after them if that is asked for."""
        images, labels = self._moved(batch.images, batch.labels)
        batch, stop, state = TrainingBatch(images, labels, batch.total), False, self.state
        for _ in range(self.objective.repeats):
            if self._finished:
                break
            progress = self._progress(state.epoch, state.step)
            try:
                stop = self.stepper.step(batch, progress, meter) or stop
            except ExplodedError as error:
                self._diverged(*error.args)
            state.step += 1
            bar.advance(1, loss=meter.loss, accuracy=meter.accuracy)
        state.batch += 1
        if stop:
            self._pause(meter, capture())

    @torch.no_grad()
    def _validate(self, source: Source) -> dict[str, float] | None:
        """The loss by which epochs are compared, each process taking some of the batches.

        None if some process was asked to stop meanwhile.
        """
        size, most, meter = self._options.batch_size, self.trainer.max_steps, Meter()
        # as at the stage's end, so that epochs of a ramp can be compared
        progress = self._progress(self.epochs - 1, self.total - 1)
        names = (self.network, self.stage.name, self.state.epoch, "validation")
        count = len(source) if most is None else min(most * size, len(source))
        progressing = self.trainer.console.progress(
            f"{self._title} validation", count, unit="image", brief=True
        )
        rank, world = self.shard.rank, self.shard.world
        precision = self.accelerator.autocast()
        shown = self.shown
        with eval_mode(shown), precision, self.masked.cached(), progressing as bar:
            if isinstance(shown, SparseTraining):
                shown.refresh()
            for number, (images, labels) in enumerate(source.ordered(size, limit=count)):
                if number % world == rank:
                    images, labels = self._moved(images, labels)
                    # objectives differentiate with respect to the images
                    with fork(self.trainer.seed, *names, number), torch.enable_grad():
                        loss = self.objective.validation_loss(shown, images, labels, progress)
                    total, logits, parts = checked(self.objective, loss, labels)
                    meter.add(Loss(total.detach(), logits, parts), labels)
                bar.advance(len(labels), loss=meter.loss, accuracy=meter.accuracy)
                if number % world == world - 1 and any(self.shard.gather(self._asked.arrived)):
                    return None
        return {f"val_{name}": value for name, value in meter.means(self.shard).items()}

    # -- divergence --------------------------------------------------------------------------------

    def _check_sound(self, metrics: dict[str, float]) -> None:
        """The epoch's last step may have done it: its own loss was computed before."""
        moved = (p for group in self._optimizer.param_groups for p in group["params"])
        sound = all(bool(parameter.isfinite().all()) for parameter in moved)
        if not sound or not math.isfinite(metrics.get("val_loss", 0.0)):
            self._diverged(math.nan)

    def _diverged(self, loss: float) -> NoReturn:
        """Stop all processes, whose loss is the same, before a bad step."""
        if not self.shard.is_main:
            raise PeerError(0)
        name, epoch = self.stage.name, self.state.epoch
        rate = self._options.optimizer.lr / 10  # type: ignore[attr-defined]
        kept = (
            f"the state after epoch {epoch} is kept in {self.path}" if epoch else "nothing is lost"
        )
        raise DivergedError(
            f"{self.network}: the loss of {name} epoch {epoch + 1}, step {self.state.step + 1} is "
            f"{loss:.4g}; {kept}. Try a lower learning rate (--set {name}.optimizer.lr={rate:g}), "
            f"a warm-up (--set {name}.schedule.name=warmup) or precision fp32, in a new run."
        )

    # -- state -------------------------------------------------------------------------------------

    def _finish_epoch(self, metrics: dict[str, float]) -> None:
        state = self.state
        state.epoch, state.batch = state.epoch + 1, 0
        state.history.append(metrics)
        if state.epoch in self.keep:
            self._keep(state.epoch)
        if self._options.select == "best" and self.method.eligible(self.stage, self.masked):
            loss = metrics.get("val_loss", math.inf)
            if loss <= state.best_loss and "val_loss" in metrics:
                state.best_loss = loss
                state.best = {n: t.clone() for n, t in self.model.state_dict().items()}

    def _keep(self, epoch: int) -> None:
        """Write the weights as they are where those after an epoch belong."""
        state = StageState(model={n: t.detach() for n, t in self.model.state_dict().items()})
        self.shard.lead(lambda: state.save(self.keep[epoch]))

    def _pause(self, meter: Meter, drawn: dict[str, Any]) -> NoReturn:
        """Save the state within an epoch, and stop: what follows is the same to the bit."""
        self._save({"sums": meter.sums, "random": drawn, "statistics": statistics(self.model)})
        raise KeyboardInterrupt

    def _save(self, within: Mapping[str, Any] | None = None) -> None:
        state = self.state
        state.model, state.initial, state.method = self._handed()
        state.optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        if self.method._context is not None:
            state.generator = self.method.context.generator.get_state()
        state.scale = self.scale.state_dict()
        mine = {"objective": self.objective.state_dict(), **(within or {})}
        state.processes = self.shard.gather(mine)
        self.shard.lead(lambda: state.save(self.path))

    @property
    def _of_process(self) -> dict[str, Any] | None:
        """The state that an earlier job saved of this process; None if it had other processes."""
        saved = self.state.processes
        return saved[self.shard.rank] if len(saved) == self.shard.world else None

    def _tell(self) -> None:
        self.trainer.on_epoch(self.network, self.stage, self.state.history)
        history = self.state.history
        for alarm in (self.objective.alarm(history), self.method.alarm(self.stage, history)):
            if alarm:
                self.trainer.console.warn(f"{self._title.rpartition(' ')[0]}: {alarm}")

    # -- small things ------------------------------------------------------------------------------

    @property
    def _options(self) -> StageOptions:
        assert self.stage.options is not None
        return self.stage.options

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        return self.optimizer

    @property
    def _finished(self) -> bool:
        return self.state.step >= self.total

    @property
    def _title(self) -> str:
        return f"{self.network} {self.stage.name} {self.state.epoch + 1}/{self.epochs}"

    def _progress(self, epoch: int, step: int) -> Progress:
        return Progress(epoch, step, step / max(self.total, 1), self.epochs, self.stage.name)

    def _moved(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, memory_format=self.trainer.memory_format)
        return images, labels.to(self.device)
