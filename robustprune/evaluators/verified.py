"""Verified accuracy by a cascade of bounds: what ``robustprune verify`` measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from robustprune.evaluators import accuracy, register
from robustprune.evaluators.bounds import METHODS, Bounded, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage
    from robustprune.evaluators.cascade import Cascade


@register("verified")
class Verified(Bounded):
    """Accuracy verified by several bounds, the dear ones only for what the cheap ones leave.

    A bound that auto-LiRPA does not have for the network is left out, as is one that a limit
    forbids; a warning says for how many images.
    """

    batch_size: int = Field(100, ge=1)
    """Images a batch."""
    bounds: list[Method] = Field(list(METHODS), min_length=1)
    """What to try. The cheap ones come first, in whatever order they are written."""
    iterations: int = Field(20, ge=1)
    """Gradient steps of ``alpha_crown``."""
    seconds: float | None = Field(None, gt=0)
    """Limit of time for a network. The first bound is tried on every image; the dearer ones no
    more after so many seconds. With a limit, results depend on the machine and on its load, on the
    number of processes, and on whether the evaluation was resumed: it has the seconds anew."""
    memory: float = Field(4.0, gt=0)
    """Limit of memory for a bound, in GiB, by a rough estimate: so many images are bounded at once.
    A dearer bound than the first that takes more for a single image is left out."""

    @field_validator("bounds")
    @classmethod
    def _from_cheap_to_dear(cls, bounds: list[Method]) -> list[Method]:
        if len(set(bounds)) < len(bounds):
            raise ValueError(f"a bound stands twice; got {', '.join(bounds)}. Name each once")
        return sorted(bounds, key=METHODS.index)

    def begin(self) -> Cascade:
        """The bounds, and the limits anew."""
        from robustprune.evaluators.cascade import Cascade

        return Cascade(
            self.bounds,
            eps=self.eps,
            iterations=self.iterations,
            seconds=self.seconds,
            memory=self.memory,
        )

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether each image is verified, and by what. Nothing is drawn: ``seed`` is not used.

        Returns:
            Boolean: `metric`. Integer: ``_by``, the bound that verifies the image (0: ``ibp``,
            1: ``crown_ibp``, 2: ``crown``, 3: ``alpha_crown``), or −1: undecided by all of
            `bounds`, −2: undecided, but some of them were not tried, −3: misclassified.

        Raises:
            UsageError: auto-LiRPA has none of the bounds for this network.
        """
        by = self.settled(model, images, labels)
        return {self.metric: by >= 0, f"{self.metric}_by": by}

    def summarise(self, images: PerImage) -> dict[str, float | int | list[float]]:
        """The accuracies: of all bounds, and where the dearest ones are taken away one by one.

        ``_ibp`` is what the bounds up to ``ibp`` verify, and so on; the last is `metric` itself.
        ``_left_out``, the share of the images that are undecided and on which some bound was not
        tried, is there only if it is not 0.
        """
        from robustprune.evaluators.cascade import LEFT_OUT

        by = images[f"{self.metric}_by"]
        stages = {
            f"{self.metric}_{method}": (by >= 0) & (by <= METHODS.index(method))
            for method in self.bounds[:-1]
        }
        left_out = by == LEFT_OUT
        limits = {f"{self.metric}_left_out": left_out} if left_out.any() else {}
        return accuracy.summarise({self.metric: by >= 0, **stages, **limits})
