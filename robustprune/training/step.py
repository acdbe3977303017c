"""One optimizer step: the learning rate, the gradients of a batch in parts, and the update."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.errors import ContractError
from robustprune.objectives import Loss, Objective
from robustprune.rows import Rows, sharing
from robustprune.training.whole import WholeBatch
from robustprune.types import Progress

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator

    from robustprune.datasets.source import TrainingBatch
    from robustprune.training.meter import Meter
    from robustprune.training.phase import Phase


class BatchObjective(nn.Module):
    """An objective of one batch as one module: what is wrapped for distribution and precision.

    DDP then sees one forward a step, however many the attack inside makes.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor, progress: Progress) -> Loss:
        """The objective's loss of the network on this batch.

        Only the total has a graph: DDP takes all that it finds one of for what is differentiated.
        """
        loss = checked(self.objective, self.objective(self.model, images, labels, progress), labels)
        if not loss.total.requires_grad:
            name = self.objective.registered_name
            message = (
                f"objective '{name}' gave a total without a graph: nothing is learned from it."
            )
            raise ContractError(self.objective, message)
        parts = {name: part.detach() for name, part in loss.parts.items()}
        return Loss(loss.total, loss.logits.detach(), parts)


def checked(objective: Objective, loss: Loss, labels: Tensor) -> Loss:
    """The loss of the images with these labels, if it is one.

    Raises:
        ContractError: the objective gave something else.
    """
    found = {"": f"a {type(loss).__name__}"}
    if isinstance(loss, Loss):
        shapes = {name: getattr(value, "shape", None) for name, value in loss.parts.items()}
        total, logits = getattr(loss.total, "shape", None), getattr(loss.logits, "shape", None)
        if total == () and logits and len(logits) == 2 and len(loss.logits) == len(labels):
            found = {name: "no tensor" for name, shape in shapes.items() if shape is None}
        else:
            found = {"total": f"{total}", "logits": f"{logits}"}
    if not found:
        return loss
    told = ", ".join(f"{name} {what}".strip() for name, what in found.items())
    raise ContractError(
        objective,
        f"objective '{objective.registered_name}' must give Loss(total, logits, parts): tensors of "
        f"shapes (), ({len(labels)}, classes) and by name (); got {told}.",
    )


class Taken(NamedTuple):
    """What a step tells of itself, the same in every process.

    Attributes:
        loss: of the whole batch.
        stop: whether some process has been asked to stop.
    """

    loss: float
    stop: bool


class Stepper:
    """Takes the steps of one phase.

    Args:
        accelerator: device, precision and processes.
        phase: what moves, and how.
        model: the network, on the device.
        objective: the phase's own.
        synchronise: whether BatchNorm takes its statistics over all processes.

    Attributes:
        optimizer: the phase's, new.
        foreign: functions that have drawn otherwise than one process would.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        phase: Phase,
        model: nn.Module,
        objective: Objective,
        *,
        synchronise: bool,
    ) -> None:
        self._accelerator, self._phase, self._synchronise = accelerator, phase, synchronise
        self._model, self._objective = model, objective
        self.optimizer = phase.build_optimizer()
        self.foreign: set[str] = set()
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def prepare(self) -> None:
        """Wrap network and optimizer for precision and distribution; after they are resumed."""
        with warnings.catch_warnings():  # torch renames an option that accelerate goes on to pass
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            module, stepper = self._accelerator.prepare(
                BatchObjective(self._model, self._objective), self.optimizer
            )
        self._module = module
        # without loss scaling accelerate's wrapper adds nothing but time to a step
        self._stepper = self.optimizer if self._accelerator.scaler is None else stepper

    def gradients(
        self,
        batch: TrainingBatch,
        progress: Progress,
        meter: Meter,
        *,
        asked: Callable[[], bool],
    ) -> Taken:
        """Compute the gradients of a batch's mean loss, whatever parts it is cut into.

        Args:
            batch: this process's rows, on the device.
            progress: where the phase is.
            meter: takes the loss in.
            asked: tells whether this process has been asked to stop.
        """
        self._schedule(progress)
        parts = batch.rows.cut(self._parts(batch.rows))
        total = 0.0
        for number, (where, rows) in enumerate(parts, start=1):
            images, labels = batch.images[where], batch.labels[where]
            share = len(images) / batch.rows.total
            synced = self._synced(last=number == len(parts))
            # a backward pass frees the masks' graph, so each part makes it anew
            with synced, self._sharing(images, rows), self._phase.materialised():
                loss: Loss = self._module(images, labels, progress)
                # DDP takes the mean of the processes' gradients
                self._accelerator.backward(loss.total * (share * rows.every))
            value = float(loss.total.detach())
            total += share * value
            meter.add(value, loss, labels)
        return self._agreed(total, asked())

    def update(self) -> None:
        """Move what the phase moves."""
        self._stepper.step()
        self._stepper.zero_grad()

    def _schedule(self, progress: Progress) -> None:
        factor = self._factor(progress)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _factor(self, progress: Progress) -> float:
        schedule = self._phase.schedule
        factor = schedule(progress)
        try:
            return float(factor)
        except (TypeError, ValueError):
            message = f"schedule '{schedule.registered_name}' must give a number; got {factor!r}."
            raise ContractError(schedule, message) from None

    def _parts(self, rows: Rows) -> int:
        """Never more than leave each process an image of each; two, for a BatchNorm of its own.

        Where the parts of a full batch have two, so have those of the last one.
        """
        least = rows.every if self._synchronise else 2 * rows.every
        if self._phase.batch_size >= 2 * self._phase.accumulate:
            least = max(least, 2)
        return max(1, min(self._phase.accumulate, rows.total // least))

    def _synced(self, *, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients between processes in a batch's last part only."""
        return nullcontext() if last else self._accelerator.no_sync(self._module)

    @contextmanager
    def _sharing(self, images: Tensor, rows: Rows) -> Iterator[None]:
        with ExitStack() as entered:
            if rows.every > 1:
                entered.enter_context(sharing(rows))
                whole = WholeBatch(
                    images.shape, rows, synchronise=self._synchronise, foreign=self.foreign
                )
                entered.enter_context(whole)
            yield

    def _agreed(self, loss: float, stop: bool) -> Taken:
        """From this process's share of the loss to what all of them go by."""
        if self._accelerator.num_processes == 1:
            return Taken(loss, stop)
        here = torch.tensor([loss, stop], dtype=torch.float64, device=self._accelerator.device)
        loss, stops = self._accelerator.reduce(here, reduction="sum").tolist()
        return Taken(loss, stops > 0)
