"""CERTIFY at one radius, which stops sampling an image as soon as the answer is clear.

The question: is the smoothed classifier constantly ĉA within the ℓ2 radius r? Yes if
pA > p_r = Φ(r/σ); at r = 0 that is CERTIFY's question whether to abstain. The class ĉA comes from
n0 samples of its own; what follows holds whatever ĉA is. After each round, with k of m estimation
samples in class ĉA:

*Yes, early*, if the mixture likelihood ratio ::

    E(k, m) = ∫_{p_r}^{1} (p/p_r)^k · ((1−p)/(1−p_r))^(m−k) dp / (1−p_r)

reaches 1/α₁. For each p ≥ p_r, one sample multiplies the integrand by a factor whose mean,
pA·p/p_r + (1−pA)·(1−p)/(1−p_r), grows linearly with pA and is 1 at pA = p_r. So under every
pA ≤ p_r the integrand, and with it its average over p, is a nonnegative supermartingale that starts
at 1, and the probability that it *ever* reaches 1/α₁ is at most α₁ (Ville 1939; mixtures: Robbins
1970; as confidence sequences: Howard et al. 2021, Waudby-Smith and Ramdas 2024).

*Yes, late*, if all n samples are drawn and the Clopper–Pearson bound at level α₂ is at least p_r.
Were all n always drawn, that would be wrong with probability at most α₂; stopping only hides cases.

α₁ + α₂ = α, so by the union bound a yes is wrong with probability at most α.

*No*, if the late test is unlikely to say yes: as stopping here never makes a yes, it costs no
soundness, only power, and may rest on an approximation. See `RadiusTest.hopeless`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import log, sqrt
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import bdtrc, betaincc, betaln, ndtr
from torch import Tensor

from robustprune.adapters.smoothing import ABSTAIN, Smoothed

EARLY = 0.5
"""α₁ / α. In simulations of mixed pA (n = 10,000, r/σ of 1 and 2) 0.1 took a tenth more samples,
and 0.9 turned down twice to three times as many of the images that n samples certify."""
FUTILITY = 0.01
"""Give up when a late yes is less probable than this. There, 0.001 took a seventh more samples,
0.05 turned down twice to three times as many, and giving up by the mirrored likelihood ratio,
against pA ≥ p_r at the same level, took a fifth to three quarters more samples."""


class Decisions(NamedTuple):
    """The answers about b images, on the CPU.

    Attributes:
        prediction: ``(b,)``, int64: the class that is certified, or `ABSTAIN`. At r > 0 that says
            nothing about the abstention of CERTIFY.
        certified: ``(b,)``, boolean.
        samples: ``(b,)``, int64: used, selection included.
    """

    prediction: Tensor
    certified: Tensor
    samples: Tensor


def certify_at(
    smoothed: Smoothed, images: Tensor, *, radius: float, n0: int, n: int, alpha: float
) -> Decisions:
    """Certify the images within a radius of which the smoothed classifier is constant.

    The samples are the first ones of `Smoothed.certify`.

    Args:
        smoothed: g.
        images: ``(b, channels, height, width)`` in [0, 1].
        radius: ℓ2, [0, 1] pixel range; at least 0.
        n0: samples that select the class.
        n: samples that estimate its probability, at most.
        alpha: probability that an image is wrongly certified; in (0, 1).
    """
    test = RadiusTest(radius / smoothed.sigma, n, alpha)
    selected = smoothed.select(images, n0)
    decided = [
        decide(test, (classes == cA_hat for classes in smoothed.rounds(image, "estimation")))
        for image, cA_hat in zip(images, selected.tolist(), strict=True)
    ]
    certified = torch.tensor([yes for yes, _ in decided], dtype=torch.bool)
    samples = torch.tensor([n0 + m for _, m in decided], dtype=torch.int64)
    return Decisions(torch.where(certified, selected, ABSTAIN), certified, samples)


def decide(test: RadiusTest, rounds: Iterable[Tensor]) -> tuple[bool, int]:
    """The answer, and the number of samples that it took.

    Args:
        test: the question.
        rounds: booleans, whether each sample of a round is in class ĉA.
    """
    k = m = 0
    if test.hopeless(k, m):
        return False, m
    for hits in rounds:
        hits = hits[: test.n - m]
        k, m = k + int(hits.sum()), m + len(hits)
        if m == test.n:
            return k >= test.needed or test.early(k, m), m
        if test.early(k, m):
            return True, m
        if test.hopeless(k, m):
            break
    return False, m


class RadiusTest:
    """Is pA > p_r = Φ(z)?

    Args:
        z: r/σ, at least 0.
        n: samples at most.
        alpha: probability of a wrong yes; in (0, 1).
    """

    def __init__(self, z: float, n: int, alpha: float) -> None:
        self.p, self.q = float(ndtr(z)), float(ndtr(-z))  # q = 1 − p, exact where p is nearly 1
        self.n = n
        self.alpha_early, self.alpha_late = EARLY * alpha, (1 - EARLY) * alpha

    @cached_property
    def needed(self) -> int:
        """The least k of n whose Clopper–Pearson bound reaches p_r; above n if none does.

        The bound of k reaches p_r where the probability of k successes or more at pA = p_r is α₂.
        """
        more = bdtrc(np.arange(self.n + 1), self.n, self.p)  # P(successes > 0), P(… > 1), …
        return int(np.searchsorted(-more, -self.alpha_late)) + 1

    def early(self, k: int, m: int) -> bool:
        """True if E(k, m) has reached 1/α₁."""
        return self.log_e_value(k, m) >= -log(self.alpha_early)

    def log_e_value(self, k: int, m: int) -> float:
        """The logarithm of E(k, m), from the regularised incomplete beta function; may be -inf."""
        a, b = k + 1, m - k + 1
        share = float(betaincc(a, b, self.p))  # of the beta density above p_r
        if share == 0:
            return float("-inf")
        return float(betaln(a, b)) + log(share) - k * log(self.p) - b * log(self.q)

    def hopeless(self, k: int, m: int) -> bool:
        """True if the late test will say yes with a probability below `FUTILITY`.

        That is the predictive probability under a uniform prior of pA, with a normal in place of
        the beta-binomial distribution. It is a martingale there, so of the images given up at most
        about that share would have been certified with all n samples.
        """
        left = self.n - m
        if k + left < self.needed:
            return True
        a, b = k + 1, m - k + 1
        mean = k + left * a / (a + b)
        variance = left * a * b * (a + b + left) / ((a + b) ** 2 * (a + b + 1))
        return bool(ndtr((mean - self.needed + 0.5) / sqrt(variance)) < FUTILITY)
