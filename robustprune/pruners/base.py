"""The contract of every pruning method: a registered pruner, and its method at work on a network.

The loop trains the stages that a pruner names and calls its method's hooks; the method decides
masks and holds state. Four ideas stay apart, as in jaxpruner: *when* (`masking.schedules`), *where*
(allocations), *which* (scores and selection), *what shape* (structures).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.components import Options, Part, PartOf
from robustprune.errors import UsageError, nearest
from robustprune.masking import Change, MaskedModel, select
from robustprune.masking.allocations import Allocation
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss, Objective
from robustprune.recipe import StageOptions
from robustprune.seeding import fork
from robustprune.types import Images, Progress

Closure = Callable[..., Loss]
"""``closure(again=False)``: the gradients of the step's whole batch, true ones: reduced over
processes and unscaled. ``again=True`` re-uses the attacked images and the draws of the call before,
and leaves running statistics alone."""


SCORING = Progress(stage="scoring")
"""Where objectives are told to be while weights are scored. No ramp acts in it: the radius is all
of itself."""


class Stage(NamedTuple):
    """One training of one network by the one loop.

    Attributes:
        name: unique among the pruner's; names the state, the random numbers and the curves.
        options: how it trains; None if only `Method.begin` is to be called.
        start: epochs that schedule, ramps and data order count as done (rewinding).
    """

    name: str
    options: StageOptions | None
    start: int = 0


class Context(NamedTuple):
    """Everything that a method works with.

    Attributes:
        density: fraction of the prunable weights to keep, in (0, 1].
        objective: the recipe's. A stage's own wins where it is set; see `Stage.options`.
        generator: on the CPU, the same on every process, saved and resumed by the loop. Hooks draw
            from it only.
        batches: ``batches(size)`` or ``batches(size, per_class=k)``: seeded training images on the
            network's device, one pass, the same on every process and from the start at each call.
        checkpoints: state dicts, or masks, by what `Pruner.needs` named.
    """

    density: float
    objective: Objective
    generator: torch.Generator
    batches: Callable[..., Iterator[Images]]
    checkpoints: Mapping[str, Mapping[str, Tensor]]


class Sharpness(Options):
    """Training against the worst small move of what is trained.

    On scores it is S2AP (Piras et al. 2025), on weights AWP (Wu, Xia, Wang 2020).
    """

    radius: float = Field(gt=0)
    """Distance that each tensor moves, as a share of its norm. AWP takes 0.005 to 0.01."""


class Pruner(Part):
    """A registered way to find the mask and the weights under it: frozen options, no state.

    Networks start from the first of `needs`; the loop trains the `stages` one after the other.
    """

    label: str | None = Field(None, pattern=r"^[\w][\w.-]*$")
    """Names the networks in results, to tell variants of a method apart."""
    structure: Annotated[Structure, PartOf("structures", {"name": "weight"})]
    """The weights that one entry of a mask covers."""
    allocation: Annotated[Allocation, PartOf("allocations", {"name": "uniform"})]
    """Shares the network's density out among its layers."""
    exclude: list[str] = []
    """Layers that stay dense, by name or pattern; the density counts over what is left."""
    sharpness: Sharpness | None = None
    """Take each step's gradients where small moves of what is trained hurt most."""

    still: ClassVar[tuple[str, ...]] = ()
    """Stages whose masks stay as `Method.begin` sets them, so that they can be trained through
    sparse kernels; ``train`` stands for ``train-1`` too."""
    needs_validation: ClassVar[bool] = False
    """True if it goes by the loss on a validation split; see `Method.after_epoch`."""
    source: ClassVar[str] = ""
    """The paper: authors, year, title or number."""
    cost: ClassVar[str] = ""
    """The trainings that it takes, and passes per step where that is not one."""

    @classmethod
    def facts(cls) -> dict[str, str]:
        """The source, the cost and, by default options, the needs."""
        needs = ", ".join(cls.model_validate({}).needs())
        facts = {"source": cls.source, "cost": cls.cost, "needs": needs}
        return {key: value for key, value in facts.items() if value}

    @property
    def variant(self) -> str:
        """The label, or the pruner's name."""
        return self.label or self.registered_name

    def network(self, density: float) -> str:
        """The pruned network's name, e.g. ``hydra-0.01``."""
        return f"{self.variant}-{density:g}"

    def stands_still(self, stage: str) -> bool:
        """True if the stage's masks stay as they are where it begins; see `still`."""
        return stage in self.still or stage.partition("-")[0] in self.still

    def needs(self) -> tuple[str, ...]:
        """The networks that must be there first; the first of them is the one to start from.

        ``dense``: the recipe's trained dense network. ``init``: it before training. ``pretrain@3``:
        it after three epochs. ``fresh``: a new initialisation, drawn for this network.
        ``mask:<label>``: the mask that another pruner of the recipe has found at this density.
        """
        return ("dense",)

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """Tell what keeps a stage from its objective, with the remedy; said before any training.

        Args:
            stage: one of `stages`.
            objective: that it minimises.
        """
        if self.sharpness is not None and stage.options is not None and objective.one_pass:
            yield f"sharpness takes two passes a step, and {objective.one_pass}"

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The stages to train, in this order.

        Args:
            density: fraction of the prunable weights to keep, in (0, 1].
            recipe: the options of the recipe's sections ``pretrain``, ``prune`` and ``finetune``,
                as far as it has them; see `section`.
        """
        raise TypeError(f"{type(self).__name__} must define stages(density, recipe)")

    def method(self, context: Context) -> Method:
        """A fresh method, for one network."""
        raise TypeError(f"{type(self).__name__} must define method(context)")

    def section(self, name: str, recipe: Mapping[str, StageOptions]) -> StageOptions:
        """The options of a recipe's section.

        Raises:
            UsageError: the recipe has none.
        """
        sections = ("pretrain", "prune", "finetune")
        if name not in sections:
            raise UsageError(f"no section of a recipe is '{name}'.{nearest(name, sections)}")
        if name not in recipe:
            raise UsageError(
                f"pruner '{self.variant}' trains as the section '{name}' says, and {name}.epochs "
                f"is missing. Add it: --set {name}.epochs=10."
            )
        return recipe[name]


class Method:
    """A pruner at work on one network. Every default does nothing but where said.

    On its own it trains a network as it is, which is how dense ones are made.

    Masks change through `MaskedModel.set` only, from `begin`, `step`, `after_step` and
    `after_epoch`. Hooks draw from ``context.generator`` only.

    Args:
        pruner: its options.
        context: what it works with.
    """

    def __init__(self, pruner: Any = None, context: Context | None = None) -> None:
        self.pruner, self._context = pruner, context

    @property
    def context(self) -> Context:
        """The context; a method that trains a dense network has none."""
        assert self._context is not None
        return self._context

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        """Add scores or reparametrisations: shapes only, no data, no draws.

        Called on resume too, before what was saved is loaded; twice is harmless.
        """

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Called once, at the stage's start, before anything is trained."""

    def param_groups(self, stage: Stage, masked: MaskedModel) -> list[dict[str, Any]]:
        """The tensors to train, in groups as torch.optim takes them. Everything but scores."""
        return [{"params": masked.weight_parameters()}]

    def train_mode(self, stage: Stage, masked: MaskedModel) -> None:
        """Put the network in train mode; a method may leave norm layers in eval mode."""
        masked.model.train()

    def select(self, stage: Stage, masked: MaskedModel) -> None:
        """Set the masks that follow from what is trained, as it stands."""

    def penalty(self, stage: Stage, masked: MaskedModel, progress: Progress) -> Tensor | None:
        """A scalar that is added to the loss, once an optimizer step; shown as a curve."""
        return None

    def step(
        self,
        stage: Stage,
        masked: MaskedModel,
        closure: Closure,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> Loss:
        """Take one optimizer step, and give the loss that is shown."""
        loss = closure()
        optimizer.step()
        return loss

    def after_step(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        """Called after each optimizer step. Renews the masks by `select`."""
        self.select(stage, masked)

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Called after each epoch and its validation; what it returns becomes curves."""
        return {}

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """Let ``select: best`` take the network as it is now."""
        return True

    def alarm(self, stage: Stage, history: Sequence[Mapping[str, float]]) -> str:
        """Tell what a user must know of the stage's epochs so far; empty if nothing.

        Args:
            stage: under way.
            history: the metrics of each finished epoch, curves of `after_epoch` among them.
        """
        return ""

    def finished(self, stage: Stage, masked: MaskedModel) -> bool:
        """End the stage before its last epoch; asked before each epoch, and again on resume."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed stage needs; the same on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let objectives and libraries draw, for a block, what follows from the own generator."""
        seed = int(torch.randint(2**62, (), generator=self.context.generator))
        with fork(seed, "method"):
            yield

    def objective(self, stage: Stage) -> Objective:
        """The objective that a stage minimises: its own, or the recipe's."""
        own = None if stage.options is None else stage.options.objective
        return self.context.objective if own is None else own  # type: ignore[return-value]

    def keep(
        self, masked: MaskedModel, importance: Mapping[str, Tensor], density: float | None = None
    ) -> Change:
        """Keep the most important weights, by the pruner's allocation and structure.

        Args:
            masked: whose masks are set.
            importance: of each weight, at least 0, by the weight's name; usually |score|.
            density: fraction to keep; the context's if absent.
        """
        density = self.context.density if density is None else density
        return masked.set(self.masks(masked, importance, density))

    def left(self, masked: MaskedModel, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The importance of what the masks keep, above 0, and 0 where they prune.

        Nothing that is pruned then comes back before all that is left, whatever the allocation.
        """
        return {
            name: (tensor + torch.finfo(tensor.dtype).tiny).masked_fill(~masked.masks[name], 0.0)
            for name, tensor in importance.items()
        }

    def masks(
        self, masked: MaskedModel, importance: Mapping[str, Tensor], density: float
    ) -> dict[str, Tensor]:
        """The masks that `keep` would set; see there."""
        allocation: Allocation = self.pruner.allocation
        return select(importance, density, allocation=allocation, structure=masked.structure)


def reset_grown(
    masked: MaskedModel,
    optimizer: torch.optim.Optimizer | None,
    change: Change,
    value: float = 0.0,
) -> None:
    """Set weights that have come back, and all that the optimizer keeps for them.

    Weight decay alone moves pruned weights and fills their momentum, so a weight that grows would
    start from what it never was.

    Args:
        masked: the network.
        optimizer: whose tensors of the weights' shapes become 0 there; None for none.
        change: what `MaskedModel.set` gave.
        value: of the weights.
    """
    for name, grown in change.grown.items():
        weight = masked.weights[name]
        weight.data[grown] = value
        state = {} if optimizer is None else optimizer.state.get(weight, {})
        for kept in state.values():
            if getattr(kept, "shape", None) == weight.shape:
                kept[grown] = 0


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Batch, instance, layer, group and RMS norms of torch, and what extends them."""
    kinds = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return [module for module in model.modules() if isinstance(module, kinds)]
