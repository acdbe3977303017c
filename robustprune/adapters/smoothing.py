"""Randomized smoothing: CERTIFY of Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918).

The smoothed classifier g(x) is the class that the base classifier f gives most often to
x + N(0, σ²I). If f gives it with probability pA > 1/2, g is constant in the open ℓ2 ball of radius
σ·Φ⁻¹(pA) around x (their Theorem 1). pA is estimated, so a certificate is wrong with probability
at most alpha, and it is one about g, never about f.

The noise is not clipped to [0, 1]: the theorem is about Gaussian noise, and f sees what it brings.
"""
# ruff: noqa: N806 - the paper's symbols are the names

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

import torch
from scipy.special import betaincinv, ndtri  # ndtri is Φ⁻¹
from torch import Tensor, nn

from robustprune.adapters.torchattacks import logits
from robustprune.seeding import derive
from robustprune.train_mode import eval_mode

Purpose = Literal["selection", "estimation"]

ABSTAIN = -1
"""In place of a class: too close to call."""
ROUND = 100
"""Noisy copies of one image that are drawn, and seen by f, together.

Always so many, and never beside another image's: a kernel may round differently for another shape,
and then an image's certificate would depend on its company. Larger rounds were no faster.
"""


class Certificates(NamedTuple):
    """The answers of CERTIFY about b images, on the CPU.

    Attributes:
        prediction: ``(b,)``, int64: the class of g, or `ABSTAIN`.
        radius: ``(b,)``, float64: within which g is constant, ℓ2, [0, 1] pixel range; 0 where it
            abstains.
    """

    prediction: Tensor
    radius: Tensor


class Smoothed:
    """A smoothed classifier g.

    The noise of an image is drawn on the CPU, from ``seed`` and the image's content. So results
    do not depend on the batch, the order, the number of processes or the place in the data
    set, and networks are compared under the same noise. Equal images share theirs, which harms
    nothing: a certificate is about one image.

    Args:
        base_classifier: f, from images to logits ``(n, num_classes)``; used in eval mode, and each
            module gets its mode back.
        num_classes: number of classes.
        sigma: standard deviation of the noise; [0, 1] pixel range.
        seed: of the noise.
    """

    def __init__(
        self, base_classifier: nn.Module, num_classes: int, sigma: float, *, seed: int = 0
    ) -> None:
        self.base_classifier = base_classifier
        self.num_classes = num_classes
        self.sigma = sigma
        self.seed = seed

    def certify(self, images: Tensor, *, n0: int, n: int, alpha: float) -> Certificates:
        """CERTIFY: the class of g, and a radius within which g is constant. Sec. 3.2.2.

        Args:
            images: ``(b, channels, height, width)`` in [0, 1].
            n0: samples that select the class.
            n: samples that estimate its probability, independent of the former.
            alpha: probability that an image's radius is too large; in (0, 1).
        """
        cA_hat = self.select(images, n0)
        counts = self.sample_under_noise(images, n, "estimation")
        nA = counts.gather(1, cA_hat[:, None])[:, 0]
        pA_lower = lower_confidence_bound(nA, n, alpha)
        radius = self.sigma * torch.from_numpy(ndtri(pA_lower.numpy()))
        sure = pA_lower > 0.5
        return Certificates(torch.where(sure, cA_hat, ABSTAIN), torch.where(sure, radius, 0.0))

    def select(self, images: Tensor, n0: int) -> Tensor:
        """ĉA: the class seen most often in ``n0`` samples; int64 ``(b,)`` on the CPU."""
        return self.sample_under_noise(images, n0, "selection")[:, :-1].argmax(1)

    def sample_under_noise(self, images: Tensor, num: int, purpose: Purpose) -> Tensor:
        """Count how often f gives each class to each image under noise.

        Args:
            images: ``(b, channels, height, width)`` in [0, 1].
            num: samples an image.
            purpose: each has noise of its own.

        Returns:
            Counts ``(b, num_classes + 1)``, int64, on the CPU. The last column counts the samples
            that have no class.
        """

        def counts(image: Tensor) -> Tensor:
            rounds = islice(self.rounds(image, purpose), -(-num // ROUND))
            return torch.cat(list(rounds))[:num].bincount(minlength=self.num_classes + 1)

        return torch.stack([counts(image) for image in images]).cpu()

    def rounds(self, image: Tensor, purpose: Purpose) -> Iterator[Tensor]:
        """The classes of `ROUND` noisy copies at a time, ``(ROUND,)``, int64, without end.

        A sample has no class, which is written ``num_classes``, if any of its logits is NaN or
        infinite: argmax would make a class of that.
        """
        content = image.detach().cpu().float().contiguous().numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()
        generator = torch.Generator().manual_seed(derive(self.seed, purpose, digest))
        noise = torch.empty(ROUND, *image.shape)
        while True:
            noise.normal_(0, self.sigma, generator=generator)
            yield self._classes(image + noise.to(image))

    def _classes(self, noisy: Tensor) -> Tensor:
        with torch.no_grad(), eval_mode(self.base_classifier):
            found = logits(self.base_classifier, noisy)
            finite = found.isfinite().all(1)
            return torch.where(finite, found.argmax(1), self.num_classes)


def lower_confidence_bound(nA: Tensor, n: int, alpha: float) -> Tensor:  # noqa: N803
    """The one-sided Clopper–Pearson bound: above pA with probability at most alpha.

    It is the quantile at alpha of Beta(nA, n − nA + 1), for all images at once;
    `scipy.stats.binomtest` gives the same for one.

    Args:
        nA: ``(b,)``, int64, on the CPU: successes.
        n: trials.
        alpha: in (0, 1).

    Returns:
        ``(b,)``, float64.
    """
    k = nA.numpy()
    bound = torch.from_numpy(betaincinv(k.clip(1), n - k + 1, alpha))
    return torch.where(nA > 0, bound, 0.0)
