"""One optimizer step, from the batch to the masks that follow from it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from robustprune.datasets.source import TrainingBatch
from robustprune.errors import ContractError, UsageError
from robustprune.inference.training import SparseTraining
from robustprune.masking import MaskedModel
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Closure, Method, Stage, sharpened
from robustprune.shard import Shard
from robustprune.train_mode import frozen_statistics
from robustprune.types import Progress

EXPLODED = 1e4
"""A loss above this has exploded: chance is ln(classes), and nothing comes back from here."""


class ExplodedError(ArithmeticError):
    """The loss, its argument, is NaN, infinite or exploding; it is the same on all processes."""


class NonFiniteError(ArithmeticError):
    """Scaled gradients have overflowed: the step is not to be taken."""


class Asked(Protocol):
    """A request to stop; see `robustprune.stopping.orderly`."""

    arrived: bool


class Known(NamedTuple):
    """The results of a first pass over a part of a batch that a second one re-uses.

    Attributes:
        attacked: images; None if the objective has no attack.
        draws: the state of torch's generators after the attack, on the CPU and on the GPU in use.
    """

    attacked: Tensor | None
    draws: tuple[Tensor, Tensor | None]


class Stepper:
    """Takes the optimizer steps of one stage.

    The objective is ``shown`` the network, which may be the masked one through sparse kernels.
    Each group of the optimizer has an ``initial_lr``, as torch's schedulers call it: its learning
    rate at the schedule's factor 1.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        masked: MaskedModel,
        shown: nn.Module,
        method: Method,
        stage: Stage,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scale: LossScale,
        asked: Asked,
    ) -> None:
        assert stage.options is not None
        self._accelerator, self._masked, self._method = accelerator, masked, method
        self._stage, self._options, self._objective = stage, stage.options, objective
        self._optimizer, self._scale, self._asked = optimizer, scale, asked
        self._own = BatchObjective(masked, shown, method, stage, objective)
        with warnings.catch_warnings():  # torch renames an option that accelerate goes on to pass
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            self._module = accelerator.prepare(self._own)
        self._sharpness = getattr(method.pruner, "sharpness", None)
        self._learns_noise = type(objective).after_backward is not Objective.after_backward

    def step(self, batch: TrainingBatch, progress: Progress, meter: Meter) -> bool:
        """Take one step.

        Args:
            batch: this process's images, on the device.
            progress: where the stage is.
            meter: takes the loss in.

        Returns:
            True if some process has been asked to stop.

        Raises:
            ExplodedError: the loss is no number to go on with; nothing was moved.
        """
        method, stage, masked = self._method, self._stage, self._masked
        factor = self._factor(progress)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._stop = False
        closure = self._closure(batch, progress)
        if self._sharpness is not None:
            radius = self._sharpness.radius
            closure = sharpened(closure, method=method, stage=stage, masked=masked, radius=radius)
        try:
            loss = method.step(stage, masked, closure, self._optimizer, progress)
        except NonFiniteError:
            self._scale.update(finite=False)
            return self._stop
        self._scale.update(finite=True)
        meter.add(loss, batch.labels)
        method.after_step(stage, masked, self._optimizer, progress)
        return self._stop

    def _factor(self, progress: Progress) -> float:
        schedule = self._options.schedule
        factor = schedule(progress)  # type: ignore[operator]
        try:
            return float(factor)
        except (TypeError, ValueError):
            message = f"schedule '{schedule.registered_name}' must give a number; got {factor!r}."
            raise ContractError(schedule, message) from None

    def _closure(self, batch: TrainingBatch, progress: Progress) -> Closure:
        """``closure(again=False)``: zero the gradients, and compute those of the whole batch.

        See `robustprune.pruners.Closure`. It gives the loss of this process's images, whose total
        and parts are numbers, and raises an `ExplodedError`, a `NonFiniteError`, or a `UsageError`
        if there is nothing to re-use.
        """
        parts = self._cut(batch)
        shares = [len(labels) / batch.total for _, labels in parts]
        known: list[Known | None] = [None] * len(parts)

        def closure(*, again: bool = False) -> Loss:
            if again and None in known:
                why = self._objective.one_pass or "call the closure without again=True first"
                raise UsageError(f"a second pass re-uses the first one's attack: {why}")
            self._optimizer.zero_grad()
            losses = []
            for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
                self._own.known = known[number] if again else None
                loss = self._gradients(part, progress, share=share, last=number == len(parts) - 1)
                losses.append(loss)
                known[number], self._own.known = self._own.known, None
            loss = losses[0] if len(losses) == 1 else _joined(losses, shares)
            self._agree(loss, batch)
            return loss

        return closure

    def _cut(self, batch: TrainingBatch) -> list[tuple[Tensor, Tensor]]:
        """The batch in parts: as many on every process, with an image in each.

        Where the parts of a full batch have two, as BatchNorm needs, so have those of the last one.
        """
        most, processes = self._options.accumulate, self._accelerator.num_processes
        pairs = self._options.batch_size >= 2 * most * processes
        count = max(1, min(most, batch.total // processes // (2 if pairs else 1)))
        images, labels = batch.images.tensor_split(count), batch.labels.tensor_split(count)
        return list(zip(images, labels, strict=True))

    def _gradients(
        self, part: tuple[Tensor, Tensor], progress: Progress, *, share: float, last: bool
    ) -> Loss:
        """Add the gradients of a part of the batch to those that are there.

        DDP takes the mean over processes, so a part counts by its share of the whole batch times
        their number, and gradients are exchanged in the last part only.
        """
        factor = share * self._accelerator.num_processes
        waits = nullcontext() if last else self._accelerator.no_sync(self._module)
        again = self._own.known is not None
        kept: AbstractContextManager[None] = (
            frozen_statistics(self._masked.model) if again else nullcontext()
        )
        # a backward pass frees the masks' graph, so each part makes it anew
        with kept, waits, self._masked.cached():
            total, loss = self._module(*part, progress, factor, last)
            (total * self._scale.scale).backward()
        if self._learns_noise:
            self._objective.after_backward()
        return loss  # type: ignore[no-any-return]

    def _agree(self, loss: Loss, batch: TrainingBatch) -> None:
        """Let all processes find the whole batch's loss sound, or none; and unscale gradients.

        Raises:
            ExplodedError: the loss is NaN, infinite or exploding.
            NonFiniteError: the loss is sound, and gradients have overflowed in fp16.
        """
        value, stop = float(loss.total), self._asked.arrived
        if self._accelerator.num_processes > 1:
            mine = [value * len(batch.labels) / batch.total, stop]
            here = torch.tensor(mine, dtype=torch.float64, device=self._accelerator.device)
            value, stops = self._accelerator.reduce(here, reduction="sum").tolist()
            stop = stops > 0
        self._stop = stop or self._stop
        if self._scale.scale < LossScale.LEAST:
            value = math.nan  # the gradients are, whatever they are scaled by
        if not (math.isfinite(value) and value < EXPLODED):
            raise ExplodedError(value)
        if self._scale.enabled:
            parameters = (p for group in self._optimizer.param_groups for p in group["params"])
            self._scale.unscale([p.grad for p in parameters if p.grad is not None])


class BatchObjective(nn.Module):
    """An objective of one batch as one module: what is wrapped for distribution and precision.

    DDP then sees one forward a pass, however many the attack inside makes.

    Attributes:
        known: what the pass re-uses; after a pass, what another one could.
    """

    def __init__(
        self,
        masked: MaskedModel,
        shown: nn.Module,
        method: Method,
        stage: Stage,
        objective: Objective,
    ) -> None:
        super().__init__()
        self.model = shown
        self._masked, self._method, self._stage, self._objective = masked, method, stage, objective
        self._attacks_apart = objective.attacks_apart
        self.known: Known | None = None

    def forward(
        self, images: Tensor, labels: Tensor, progress: Progress, factor: float, penalised: bool
    ) -> tuple[Tensor, Loss]:
        """The scalar that is differentiated, and the loss that is shown.

        Only the first has a graph: DDP takes all that it finds one of for what is differentiated.

        Args:
            images: ``(n, channels, height, width)``.
            labels: ``(n,)``.
            progress: where the stage is.
            factor: on the loss.
            penalised: add the method's penalty.
        """
        if isinstance(self.model, SparseTraining):
            self.model.refresh()  # each part of a batch moves running statistics
        loss = checked(self._objective, self._loss(images, labels, progress), labels)
        if not loss.total.requires_grad:
            name = self._objective.registered_name
            message = f"objective '{name}' gave a total without a graph: nothing is learned from it"
            raise ContractError(self._objective, f"{message}.")
        total = factor * loss.total
        parts = {name: part.detach() for name, part in loss.parts.items()}
        if penalised:
            penalty = self._method.penalty(self._stage, self._masked, progress)
            if penalty is not None:
                total, parts["penalty"] = total + penalty, penalty.detach()
        return total, Loss(loss.total.detach(), loss.logits.detach(), parts)

    def _loss(self, images: Tensor, labels: Tensor, progress: Progress) -> Loss:
        objective, model, known = self._objective, self.model, self.known
        if not self._attacks_apart:
            return objective(model, images, labels, progress)
        if known is None:
            attacked = objective.attack(model, images, labels, progress)
            self.known = Known(attacked, _draws())
            return objective.loss(model, images, attacked, labels, progress)
        on_cpu, on_gpu = known.draws  # what the first pass drew after its attack is drawn again
        with torch.random.fork_rng([] if on_gpu is None else [torch.cuda.current_device()]):
            torch.set_rng_state(on_cpu)
            if on_gpu is not None:
                torch.cuda.set_rng_state(on_gpu)
            return objective.loss(model, images, known.attacked, labels, progress)


def _draws() -> tuple[Tensor, Tensor | None]:
    on_gpu = torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None


def checked(objective: Objective, loss: Loss, labels: Tensor) -> Loss:
    """The loss of the images with these labels, if it is one.

    Raises:
        ContractError: the objective gave something else.
    """
    found = f"a {type(loss).__name__}"
    if isinstance(loss, Loss):
        values = {"total": loss.total, "logits": loss.logits, **loss.parts}
        shapes = {name: getattr(value, "shape", "no tensor") for name, value in values.items()}
        total, logits, *_ = shapes.values()
        wrong = {name: shape for name, shape in shapes.items() if shape == "no tensor"}
        if total != () or len(logits) != 2 or logits[0] != len(labels):
            wrong = {"total": total, "logits": logits}
        if not wrong:
            return loss
        found = ", ".join(f"{name} {shape}" for name, shape in wrong.items())
    raise ContractError(
        objective,
        f"objective '{objective.registered_name}' must give Loss(total, logits, parts): tensors of "
        f"shapes (), ({len(labels)}, classes) and by name (); got {found}.",
    )


class LossScale:
    """Factor on fp16 losses, so that small gradients do not vanish.

    As torch's GradScaler, which unscales once a step and takes no closure.

    Args:
        enabled: whether anything is scaled.

    Attributes:
        scale: the factor; 1 where nothing is scaled.
    """

    GROWTH_STEPS = 2000
    LEAST = 1e-6
    """Gradients that overflow at this scale do not overflow because of it."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.scale, self._good = (2.0**16 if enabled else 1.0), 0

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide by the scale, in place.

        Raises:
            NonFiniteError: some are not finite.
        """
        torch._foreach_div_(gradients, self.scale)
        if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
            raise NonFiniteError

    def update(self, *, finite: bool) -> None:
        """Halve it after a step that overflowed, double it after many that did not."""
        if not self.enabled:
            return
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self._good == self.GROWTH_STEPS:
            self.scale, self._good = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        """The values that a resumed stage needs."""
        return {"scale": self.scale, "good": float(self._good)} if self.enabled else {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over what `state_dict` gave."""
        if self.enabled and state:
            self.scale, self._good = state["scale"], int(state["good"])


class Meter:
    """Means over the images seen: loss, accuracy, and the objective's named parts.

    Attributes:
        sums: of each over the images, and their number; what `of` takes.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {"images": 0.0, "loss": 0.0, "accuracy": 0.0}

    @classmethod
    def of(cls, sums: Iterable[dict[str, float]]) -> Meter:
        """One that has seen what several have."""
        meter = cls()
        for one in sums:
            for name, value in one.items():
                meter.sums[name] = meter.sums.get(name, 0.0) + value
        return meter

    def add(self, loss: Loss, labels: Tensor) -> None:
        """Take in one batch."""
        right = (loss.logits.argmax(1) == labels).sum()
        means = {"loss": loss.total, "accuracy": right.double() / len(labels), **loss.parts}
        # one transfer, because the host waits for a GPU at each
        values = torch.stack([mean.detach().to(right.device).double() for mean in means.values()])
        for name, value in zip(means, values.tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + len(labels) * value
        self.sums["images"] += len(labels)

    @property
    def loss(self) -> float:
        """Mean loss so far, in this process."""
        return self.sums["loss"] / max(self.sums["images"], 1)

    @property
    def accuracy(self) -> float:
        """Accuracy so far, in this process, in [0, 1]."""
        return self.sums["accuracy"] / max(self.sums["images"], 1)

    def means(self, shard: Shard) -> dict[str, float]:
        """All means, over the images of all processes; none if no image was seen."""
        together = self.of(shard.gather(self.sums)).sums
        images = together.pop("images")
        return {name: value / images for name, value in together.items()} if images else {}


def _joined(losses: Sequence[Loss], shares: Sequence[float]) -> Loss:
    """One loss of several parts of a batch: means over the images."""
    weights = [share / sum(shares) for share in shares]
    pairs = list(zip(weights, losses, strict=True))
    names = dict.fromkeys(name for loss in losses for name in loss.parts)
    zero = torch.zeros(())
    parts = {
        name: sum((w * loss.parts[name] for w, loss in pairs if name in loss.parts), zero)
        for name in names
    }
    if "penalty" in parts:
        parts["penalty"] = losses[-1].parts["penalty"]  # stands in the last part only
    total = torch.stack([w * loss.total for w, loss in pairs]).sum()
    return Loss(total, torch.cat([loss.logits for loss in losses]), parts)
