"""Certified accuracy of the smoothed classifier: the paper's *vra-s*."""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustprune.adapters import sequential, smoothing
from robustprune.evaluators import register
from robustprune.evaluators.accuracy import Metrics, PerImage, summarise
from robustprune.evaluators.base import Evaluator
from robustprune.evaluators.criteria import num_classes
from robustprune.radii import L2Radius, Sigma


@register("smoothing")
class Smoothing(Evaluator):
    """Accuracy that randomized smoothing certifies. Source: Cohen et al. 2019, Sec. 3.2.

    What is certified is the smoothed classifier, which gives the class that the network gives most
    often under Gaussian noise. It says nothing about the network on its own.

    Results do not depend on the batch size: it only says how often the bar moves.
    """

    calls_only = True

    batch_size: int = Field(20, ge=1)
    """Images per batch."""
    sigma: Sigma = Field(0.25, gt=0)
    """Standard deviation of the noise; [0, 1] pixel range."""
    n0: int = Field(100, ge=1)
    """Noisy samples that select an image's class."""
    n: int = Field(10_000, ge=1)
    """Noisy samples that estimate that class's probability; at most, if sequential."""
    alpha: float = Field(0.001, gt=0, lt=1)
    """Probability that an image is certified wrongly."""
    radius: L2Radius = Field(110 / 255, ge=0)
    """ℓ2 radius at which an image counts; [0, 1] pixel range."""
    radii: list[Annotated[L2Radius, Field(ge=0)]] = Field(default_factory=list)
    """More radii to report the certified accuracy at, each named by its radius."""
    sequential: bool = False
    """Stop sampling an image when the answer at ``radius`` is settled, with the same ``alpha``.
    The radius of an image, and so their average, is then not known."""
    noise_seed: int = Field(0, ge=0)
    """Seed of the noise, which depends on this and on the image only: all networks see the same."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sequential and self.radii:
            raise ValueError(
                "sequential settles one radius, so 'radii' must be empty; got "
                f"{self.radii}. Set sequential: false, or add an evaluator for each radius"
            )
        if len(set(map(self._named, self.radii))) < len(self.radii):
            raise ValueError(f"radii must differ in their first six digits; got {self.radii}")
        return self

    @property
    def passes(self) -> int:
        """One for each sample."""
        return self.n0 + self.n

    def shown(self, images: int) -> int:
        """Noisy copies of one image, always as many."""
        return smoothing.ROUND

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Certify each image.

        ``seed`` is not used, because it depends on the batch.

        Returns:
            Boolean: `metric`, of the right class and certified at ``radius``. Integer:
            ``_prediction``, the class or −1, and ``_samples``. If not sequential also, boolean:
            one entry for each of ``radii``, and ``_abstained``; floating: ``_radius``, certified,
            0 where the class is wrong or none. If sequential, a ``_prediction`` of −1 says that
            none is certified at ``radius``.
        """
        classes, labels = num_classes(model, images), labels.cpu()
        smoothed = smoothing.Smoothed(model, classes, self.sigma, seed=self.noise_seed)
        effort: Any = {"n0": self.n0, "n": self.n, "alpha": self.alpha}
        if self.sequential:
            settled = sequential.certify_at(smoothed, images, radius=self.radius, **effort)
            return {
                self.metric: settled.certified & (settled.prediction == labels),
                f"{self.metric}_prediction": settled.prediction,
                f"{self.metric}_samples": settled.samples,
            }
        found = smoothed.certify(images, **effort)
        right = found.prediction == labels
        extra = {self._named(radius): right & (found.radius >= radius) for radius in self.radii}
        return {
            self.metric: right & (found.radius >= self.radius),
            **extra,
            f"{self.metric}_abstained": found.prediction == smoothing.ABSTAIN,
            f"{self.metric}_radius": found.radius * right,
            f"{self.metric}_prediction": found.prediction,
            f"{self.metric}_samples": torch.full_like(labels, self.n0 + self.n),
        }

    def summarise(self, images: PerImage) -> Metrics:
        """The accuracies, ``_acr`` and ``_samples``.

        ``_acr`` is the average certified radius, over all images; it is missing if sequential.
        ``_samples`` is the mean number of samples per image.
        """
        others = {k: v for k, v in images.items() if k != f"{self.metric}_radius"}
        metrics = summarise(others)
        for entry, name in (("radius", "acr"), ("samples", "samples")):
            if (values := images.get(f"{self.metric}_{entry}")) is not None:
                mean = {f"{self.metric}_{name}": values.double().mean().item()}
                metrics |= mean | {f"{self.metric}_{name}_n": len(values)}
        return metrics

    def _named(self, radius: float) -> str:
        return f"{self.metric}_{radius:g}"
