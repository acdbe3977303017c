"""Verified accuracy: no image in the ball is classified wrongly, proved by one kind of bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field, PrivateAttr

from robustprune.evaluators import register
from robustprune.evaluators.base import Evaluator
from robustprune.evaluators.omissions import Omissions
from robustprune.radii import Radius
from robustprune.types import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import Batches, PerImage
    from robustprune.evaluators.cascade import Cascade

Method = Literal["ibp", "crown_ibp", "crown", "alpha_crown"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The bounds, the cheapest and loosest first."""


class Bounded(Evaluator):
    """The base of evaluators that bound the network's margins over the ball, cut to [0, 1].

    An image counts if it is classified rightly, and so is certainly all of the ball. Images that
    are misclassified are not bounded. Results depend on the batch size by rounding only, except
    that ``alpha_crown`` may stop a batch early in which nothing gets better any more. Where the
    memory is too small, batches are halved; an image that does not fit alone stays undecided, and
    is among the `omissions`, as is one for which an operator's interval reaches where its bounds
    are none.
    """

    eps: Radius = Field(2 / 255, gt=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""

    _cascade: Any = PrivateAttr(None)  # of the evaluation that is under way

    @property
    def claims(self) -> Threat:
        """The ball that is verified."""
        return Threat("linf", self.eps)

    def begin(self) -> Cascade:
        """What verifies the images of one evaluation."""
        raise TypeError(f"{type(self).__name__} must define begin()")

    def evaluate(
        self, model: nn.Module, batches: Batches, *, seed: int, network: str
    ) -> Iterator[PerImage]:
        """As the base's; limits and the library's graph of the network last as long as this."""
        self._cascade = self.begin()
        try:
            yield from super().evaluate(model, batches, seed=seed, network=network)
        finally:
            self._cascade = None

    def omissions(self) -> Omissions:
        """Bounds that were left out, in the evaluation that is under way."""
        cascade: Cascade | None = self._cascade
        return Omissions() if cascade is None else cascade.omissions()

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether each image is verified. Nothing is drawn, so ``seed`` is not used.

        Raises:
            UsageError: auto-LiRPA has no such bound for a layer of the network.
        """
        return {self.metric: self.settled(model, images, labels) >= 0}

    def settled(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See `robustprune.evaluators.cascade.Cascade.settle`."""
        cascade: Cascade = self._cascade or self.begin()
        return cascade.settle(model, images, labels)


class OneBound(Bounded):
    """The base of evaluators by one kind of bound."""

    method: ClassVar[Method]

    def begin(self) -> Cascade:
        """One bound and no limits."""
        from robustprune.evaluators.cascade import Cascade

        return Cascade([self.method], eps=self.eps)


@register("ibp")
class Ibp(OneBound):
    """Accuracy verified by interval bounds. Source: Gowal et al. 2018 (arXiv 1810.12715).

    Says little of a network that was not trained for it.
    """

    method = "ibp"


@register("crown_ibp")
class CrownIbp(OneBound):
    """Accuracy verified by CROWN on the logits, from interval bounds of the hidden layers.

    Source: Zhang et al. 2019 (arXiv 1906.06316).
    """

    method = "crown_ibp"


@register("crown")
class Crown(OneBound):
    """Accuracy verified by CROWN, on the hidden layers too. Source: Zhang et al. 2018.

    Its time and memory grow with the number of hidden neurons times that of the entries that each
    depends on.
    """

    method = "crown"

    batch_size: int = Field(50, ge=1)
    """Images a batch."""


@register("alpha_crown")
class AlphaCrown(OneBound):
    """Accuracy verified by CROWN with slopes chosen for each image by gradient ascent.

    The hidden layers' bounds are CROWN's. Source: Xu et al. 2021 (arXiv 2011.13824).
    """

    method = "alpha_crown"

    batch_size: int = Field(20, ge=1)
    """Images a batch."""
    iterations: int = Field(20, ge=1)
    """Gradient steps."""

    def begin(self) -> Cascade:
        """One bound and no limits."""
        from robustprune.evaluators.cascade import Cascade

        return Cascade([self.method], eps=self.eps, iterations=self.iterations)
