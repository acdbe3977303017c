"""Verified accuracy: no image in the ball is classified wrongly, proved by bounds on the logits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn

from robustprune.adapters import SETUP
from robustprune.adapters.bounds import Method
from robustprune.evaluators import register
from robustprune.evaluators.accuracy import Metrics, PerImage, summarise
from robustprune.evaluators.base import Batches, Evaluator
from robustprune.evaluators.cascade import LEFT_OUT, METHODS, Cascade
from robustprune.radii import Radius
from robustprune.types import Threat


class Bounded(Evaluator):
    """The base of evaluators that bound the network's margins over the ball, cut to [0, 1].

    An image counts if it is classified rightly, and so is certainly all of the ball. Images that
    are misclassified are not bounded. Results depend on the batch size by rounding only, except
    that ``alpha_crown`` may stop a batch early in which nothing gets better any more. Where the
    memory is too small, batches are halved; an image that does not fit alone stays undecided, as
    does one for which an operator's interval reaches where its bounds are none. A warning says
    which bounds were left out so, for how many images of this process and why.
    """

    libraries = ("auto_LiRPA",)
    install = SETUP
    methods: ClassVar[Sequence[Method]]

    eps: Radius = Field(2 / 255, gt=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""

    _cascade: Cascade | None = PrivateAttr(None)  # of the evaluation that is under way

    @property
    def claims(self) -> Threat:
        """The ball that is verified."""
        return Threat("linf", self.eps)

    @property
    def tried(self) -> Sequence[Method]:
        """The bounds, the cheapest first."""
        return self.methods

    def begin(self) -> Cascade:
        """Begin an evaluation: the bounds, and the limits anew."""
        limits = {"iterations", "seconds", "memory"} & type(self).model_fields.keys()
        return Cascade(self.tried, eps=self.eps, **{name: getattr(self, name) for name in limits})

    def evaluate(
        self, model: nn.Module, batches: Batches, *, seed: int, network: str
    ) -> Iterator[PerImage]:
        """Evaluate as the base does; limits and the library's graph last as long as this."""
        self._cascade = cascade = self.begin()
        try:
            yield from super().evaluate(model, batches, seed=seed, network=network)
        finally:
            self._cascade = None
        if cascade.left_out:
            told = [
                f"'{method}' for {n} image{'s' * (n > 1)} ({why})"
                for (method, why), n in cascade.left_out.items()
            ]
            warnings.warn(
                f"evaluator '{self.metric}' left bounds out on network '{network}', so that images "
                f"may be undecided that it could verify: {'; '.join(told)}.",
                stacklevel=2,
            )

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Ask if each image is verified, and by what. Nothing is drawn: ``seed`` is not used.

        Returns:
            Boolean: `metric`. Integer: ``_by``, the bound that verifies the image (0: ``ibp``,
            1: ``crown_ibp``, 2: ``crown``, 3: ``alpha_crown``), or −1: undecided by all of
            the bounds, −2: undecided, but some of them were not tried, −3: misclassified.

        Raises:
            UsageError: auto-LiRPA has none of the bounds for this network.
        """
        by = (self._cascade or self.begin()).settle(model, images, labels)
        return {self.metric: by >= 0, f"{self.metric}_by": by}

    def summarise(self, images: PerImage) -> Metrics:
        """The accuracies: of all bounds, and where the dearest ones are taken away one by one.

        ``_ibp`` is what the bounds up to ``ibp`` verify, and so on; the last is `metric` itself.
        ``_left_out``, the share of the images that are undecided and on which some bound was not
        tried, is there only if it is not 0.
        """
        by = images[f"{self.metric}_by"]
        shares = {self.metric: by >= 0}
        for method in self.tried[:-1]:
            shares[f"{self.metric}_{method}"] = (by >= 0) & (by <= METHODS.index(method))
        if (by == LEFT_OUT).any():
            shares[f"{self.metric}_left_out"] = by == LEFT_OUT
        return summarise(shares)


@register("ibp")
class Ibp(Bounded):
    """Accuracy verified by interval bounds. Source: Gowal et al. 2018 (arXiv 1810.12715).

    Says little of a network that was not trained for it.
    """

    methods = ("ibp",)


@register("crown_ibp")
class CrownIbp(Bounded):
    """Accuracy verified by CROWN on the logits, from interval bounds of the hidden layers.

    Source: Zhang et al. 2019 (arXiv 1906.06316).
    """

    methods = ("crown_ibp",)


@register("crown")
class Crown(Bounded):
    """Accuracy verified by CROWN, on the hidden layers too. Source: Zhang et al. 2018.

    Its time and memory grow with the number of hidden neurons times that of the entries that each
    depends on.
    """

    methods = ("crown",)

    batch_size: int = Field(50, ge=1)
    """Images per batch."""


@register("alpha_crown")
class AlphaCrown(Bounded):
    """Accuracy verified by CROWN with slopes chosen for each image by gradient ascent.

    The hidden layers' bounds are CROWN's. Source: Xu et al. 2021 (arXiv 2011.13824).
    """

    methods = ("alpha_crown",)

    batch_size: int = Field(20, ge=1)
    """Images per batch."""
    iterations: int = Field(20, ge=1)
    """Gradient steps."""


@register("verified")
class Verified(Bounded):
    """Accuracy verified by several bounds, the dear ones only for what the cheap ones leave.

    A bound that auto-LiRPA does not have for the network is left out, as is one that a limit
    forbids; a warning says for how many images.
    """

    batch_size: int = Field(100, ge=1)
    """Images per batch."""
    bounds: list[Method] = Field(list(METHODS), min_length=1)
    """The bounds to try. The cheap ones come first, in whatever order they are written."""
    iterations: int = Field(20, ge=1)
    """Gradient steps of ``alpha_crown``."""
    seconds: float | None = Field(None, gt=0)
    """Limit of time for a network. The first bound is tried on every image; the dearer ones no
    more after so many seconds. With a limit, results depend on the machine and on its load, on the
    number of processes, and on whether the evaluation was resumed: it has the seconds anew."""
    memory: float = Field(4.0, gt=0)
    """Limit of memory for a bound, in GiB, by a rough estimate: so many images are bounded at once.
    A dearer bound than the first that takes more for a single image is left out."""

    @property
    def tried(self) -> Sequence[Method]:
        """The bounds that were asked for."""
        return self.bounds

    @field_validator("bounds")
    @classmethod
    def _from_cheap_to_dear(cls, bounds: list[Method]) -> list[Method]:
        if len(set(bounds)) < len(bounds):
            raise ValueError(f"a bound stands twice; got {', '.join(bounds)}. Name each once")
        return sorted(bounds, key=METHODS.index)
