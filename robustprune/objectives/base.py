"""The base of every objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import PrivateAttr
from torch import Tensor, nn

from robustprune.components import Part
from robustprune.types import Progress


class Loss(NamedTuple):
    """An objective's value for one batch.

    Attributes:
        total: the scalar to minimise, a mean over the batch, with its graph.
        logits: ``(n, classes)``, for the accuracy that is shown: of the clean images where the
            objective computes them, of the perturbed ones where it does not.
        parts: named scalars for the curves; nothing is differentiated through them.
    """

    total: Tensor
    logits: Tensor
    parts: dict[str, Tensor]


class Objective(Part):
    """A robust loss. Subclass it, register it, and it trains weights and scores alike.

    An objective that attacks defines `attack` and `loss`, so that two passes can share one attack;
    another one `loss` alone, or just ``__call__``. Networks' train/eval modes are left as found.

    An instance serves one stage of one network. State goes into private attributes; an objective
    that has any overrides `state_dict` and `load_state_dict`, and it is saved with the stage.
    """

    calls_only: ClassVar[bool] = False
    """True if the network is only called, and differentiated once, in eval mode by images alone:
    not copied, traced or looked into, as bounds do. Then it may be handed over in another form,
    such as sparse kernels."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Networks beside the trained one: ``dense`` is the recipe's dense network. They are bound
    before a stage begins; see `networks`."""
    twice: ClassVar[bool] = True
    """True if the loss can be differentiated twice by the network's weights."""

    _networks: Mapping[str, nn.Module] = PrivateAttr(default_factory=dict)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that `needs` names: in eval mode, without gradients, with weights baked."""
        return self._networks

    def bind(self, networks: Mapping[str, nn.Module]) -> None:
        """Hand over the networks that `needs` names."""
        self._networks = networks

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Tensor | None:
        """Attack the images; gives them detached, or None if there is nothing to share.

        Args:
            model: maps images in [0, 1] to logits.
            images: ``(n, channels, height, width)``, float in [0, 1].
            labels: ``(n,)``, int64.
            progress: where the stage is, for ramps.
        """
        return None

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The loss of one batch, given what `attack` made of it; the other arguments are its."""
        raise TypeError(f"{type(self).__name__} must define loss(model, images, attacked, …)")

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """The loss of one batch, its attack included; see `attack` for the arguments."""
        attacked = self.attack(model, images, labels, progress)
        return self.loss(model, images, attacked, labels, progress)

    @property
    def attacks_apart(self) -> bool:
        """True if `attack` and `loss` are defined, and not ``__call__`` alone."""
        return type(self).__call__ is Objective.__call__

    @property
    def one_pass(self) -> str:
        """The reason why a step cannot take two passes with one attack; empty if it can."""
        name = self.registered_name
        if not self.attacks_apart:
            return f"objective '{name}' defines __call__ alone: define attack() and loss() instead"
        if type(self).after_backward is not Objective.after_backward:
            return f"objective '{name}' moves its noise with each gradient: use pgd or fgsm"
        return ""

    def validation_loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """The loss by which epochs are compared, on images that are not trained on.

        An objective whose state belongs to the training images overrides it.
        """
        return self(model, images, labels, progress)

    def alarm(self, history: Sequence[Mapping[str, float]]) -> str:
        """Tell what a user must know of the stage's epochs so far; empty if nothing.

        Args:
            history: the metrics of each epoch; ``val_loss`` and ``val_accuracy`` are there if the
                data has a validation split.
        """
        return ""

    @property
    def repeats(self) -> int:
        """Optimizer steps to take on each batch."""
        return 1

    def after_backward(self) -> None:
        """Called after each batch's backward pass, before the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed stage needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    def fresh(self) -> Self:
        """The same objective without the state that it has gathered; `networks` stay."""
        made = type(self)(**dict(self))
        made.bind(self._networks)
        return made
