"""One optimizer step, from the batch to the masks that follow from it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from robustprune.errors import ContractError, UsageError
from robustprune.objectives import Loss, Objective
from robustprune.training.distributed import frozen_statistics
from robustprune.types import Progress

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator

    from robustprune.datasets.source import TrainingBatch
    from robustprune.masking import MaskedModel
    from robustprune.pruners import Method, Stage
    from robustprune.shard import Shard

EXPLODED = 1e4
"""A loss above this has exploded: chance is ln(classes), and nothing comes back from here."""


class ExplodedError(ArithmeticError):
    """The loss is NaN, infinite or exploding; it is the same on all processes.

    Attributes:
        loss: of the whole batch.
    """

    def __init__(self, loss: float) -> None:
        super().__init__(f"the loss is {loss:.4g}")
        self.loss = loss


class NonFiniteError(ArithmeticError):
    """Scaled gradients have overflowed: the step is not to be taken."""


class Asked(Protocol):
    """A request to stop; see `robustprune.stopping.orderly`."""

    arrived: bool


class Stepper:
    """Takes the optimizer steps of one stage.

    Args:
        accelerator: device, precision and processes.
        masked: the network, on the device.
        method: decides its masks.
        stage: under way.
        objective: the stage's own.
        optimizer: of what the stage trains; each group's ``initial_lr``, as torch's schedulers
            call it, is its learning rate at the schedule's factor 1.
        scale: of the losses.
        asked: whether this process has been asked to stop.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        masked: MaskedModel,
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
        self._own = BatchObjective(masked, method, stage, objective)
        with warnings.catch_warnings():  # torch renames an option that accelerate goes on to pass
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            self._module = accelerator.prepare(self._own)
        self._learns_noise = type(objective).after_backward is not Objective.after_backward

    def step(self, batch: TrainingBatch, progress: Progress, meter: Meter) -> bool:
        """Take one step.

        Args:
            batch: this process's images, on the device.
            progress: where the stage is.
            meter: takes the loss in.

        Returns:
            Whether some process has been asked to stop.

        Raises:
            ExplodedError: the loss is no number to go on with; nothing was moved.
        """
        factor = self._factor(progress)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._stop = False
        closure = Closure(self, batch, progress)
        sharpened = self._method.sharpened(self._stage, self._masked, closure)
        try:
            loss = self._method.step(
                self._stage, self._masked, sharpened, self._optimizer, progress
            )
        except NonFiniteError:
            self._scale.update(finite=False)
            return self._stop
        self._scale.update(finite=True)
        meter.add(loss, batch.labels)
        self._method.after_step(self._stage, self._masked, self._optimizer, progress)
        return self._stop

    def _factor(self, progress: Progress) -> float:
        schedule = self._options.schedule
        factor = schedule(progress)  # type: ignore[operator]
        try:
            return float(factor)
        except (TypeError, ValueError):
            message = f"schedule '{schedule.registered_name}' must give a number; got {factor!r}."
            raise ContractError(schedule, message) from None

    def cut(self, batch: TrainingBatch) -> list[tuple[Tensor, Tensor]]:
        """The batch in parts: as many on every process, with an image in each.

        Where the parts of a full batch have two, as BatchNorm needs, so have those of the last one.
        """
        most, processes = self._options.accumulate, self._accelerator.num_processes
        pairs = self._options.batch_size >= 2 * most * processes
        count = max(1, min(most, batch.total // processes // (2 if pairs else 1)))
        images, labels = batch.images.tensor_split(count), batch.labels.tensor_split(count)
        return list(zip(images, labels, strict=True))

    def gradients(
        self,
        part: tuple[Tensor, Tensor],
        progress: Progress,
        known: Known | None,
        *,
        share: float,
        last: bool,
    ) -> tuple[Loss, Known | None]:
        """Add the gradients of a part of the batch to those that are there.

        DDP takes the mean over processes, so a part counts by its share of the whole batch times
        their number, and gradients are exchanged in the last part only.
        """
        factor = share * self._accelerator.num_processes
        self._own.known = known
        waits = nullcontext() if last else self._accelerator.no_sync(self._module)
        kept: AbstractContextManager[None] = (
            nullcontext() if known is None else frozen_statistics(self._masked.model)
        )
        # a backward pass frees the masks' graph, so each part makes it anew
        with kept, waits, self._masked.cached():
            total, loss = self._module(*part, progress, factor, last)
            (total * self._scale.scale).backward()
        if self._learns_noise:
            self._objective.after_backward()
        known, self._own.known = self._own.known, None
        return loss, known

    def agree(self, loss: Loss, batch: TrainingBatch) -> None:
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

    @property
    def apart(self) -> str:
        """Tell why there is no attack to re-use."""
        return self._objective.one_pass or "call the closure without again=True first"

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()


class Closure:
    """``closure(again=False)``: zero the gradients, and compute those of the step's whole batch.

    They are true ones: reduced over processes, and unscaled.
    """

    def __init__(self, stepper: Stepper, batch: TrainingBatch, progress: Progress) -> None:
        self._stepper, self._batch, self._progress = stepper, batch, progress
        self._parts = stepper.cut(batch)
        self._known: list[Known | None] = [None] * len(self._parts)

    def __call__(self, *, again: bool = False) -> Loss:
        """The loss of this process's images; its total and parts are numbers.

        Args:
            again: re-use each part's attacked images and draws, and leave the running statistics.

        Raises:
            ExplodedError: the loss is NaN, infinite or exploding.
            NonFiniteError: gradients have overflowed in fp16.
            UsageError: there is nothing to re-use: the objective defines ``__call__`` alone.
        """
        if again and None in self._known:
            raise UsageError(f"a second pass re-uses the first one's attack: {self._stepper.apart}")
        self._stepper.zero_grad()
        losses, shares = [], [len(labels) / self._batch.total for _, labels in self._parts]
        for number, (part, share) in enumerate(zip(self._parts, shares, strict=True)):
            known, last = self._known[number] if again else None, number == len(self._parts) - 1
            loss, self._known[number] = self._stepper.gradients(
                part, self._progress, known, share=share, last=last
            )
            losses.append(loss)
        loss = losses[0] if len(losses) == 1 else _joined(losses, shares)
        self._stepper.agree(loss, self._batch)
        return loss


class Known(NamedTuple):
    """The results of a first pass over a part that a second one re-uses.

    Attributes:
        attacked: images; None if the objective has no attack.
        draws: the state of torch's generators after the attack, on the CPU and on the GPU in use.
    """

    attacked: Tensor | None
    draws: tuple[Tensor, Tensor | None]


class BatchObjective(nn.Module):
    """An objective of one batch as one module: what is wrapped for distribution and precision.

    DDP then sees one forward a pass, however many the attack inside makes.

    Attributes:
        known: what the pass re-uses; after a pass, what another one could.
    """

    def __init__(
        self, masked: MaskedModel, method: Method, stage: Stage, objective: Objective
    ) -> None:
        super().__init__()
        self.model = masked.model
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
            factor: what the loss counts by.
            penalised: whether the method's penalty is added.
        """
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
        with _redrawing(known.draws):
            return objective.loss(model, images, known.attacked, labels, progress)


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
        n = len(labels)
        right = float((loss.logits.argmax(1) == labels).sum())
        own = {"images": n, "loss": n * float(loss.total), "accuracy": right}
        parts = {name: n * float(part) for name, part in loss.parts.items()}
        for name, amount in {**own, **parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

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


def _draws() -> tuple[Tensor, Tensor | None]:
    on_gpu = torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None


@contextmanager
def _redrawing(draws: tuple[Tensor, Tensor | None]) -> Iterator[None]:
    """Let torch draw for a block what it drew after these states."""
    before = _draws()
    _set_draws(draws)
    try:
        yield
    finally:
        _set_draws(before)


def _set_draws(draws: tuple[Tensor, Tensor | None]) -> None:
    on_cpu, on_gpu = draws
    torch.set_rng_state(on_cpu)
    if on_gpu is not None:
        torch.cuda.set_rng_state(on_gpu)
