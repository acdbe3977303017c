from itertools import islice

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta, betabinom, norm
from torch import nn

from robustprune.adapters.sequential import RadiusTest as Question
from robustprune.adapters.sequential import certify_at, decide
from robustprune.adapters.smoothing import ABSTAIN, ROUND, Smoothed

from .smooth import SHAPE, Halfspace, most_errors


def z_of(p):
    return float(norm.ppf(p))


def simulated(p, seed):
    """Rounds of samples that are in class ĉA with probability p."""
    generator = np.random.default_rng(seed)
    while True:
        yield torch.from_numpy(generator.random(ROUND) < p)


def wrong_answers(question, p, count):
    return sum(decide(question, simulated(p, seed))[0] for seed in range(count))


@pytest.mark.parametrize("p", [0.5, 0.9999])
@pytest.mark.parametrize(("k", "m"), [(0, 0), (100, 100), (95, 100), (290, 300), (20, 100)])
def test_the_e_value_is_the_integral_that_defines_it(p, k, m):
    question = Question(z_of(p), 1000, 0.001)

    def ratio(x):
        return (x / question.p) ** k * ((1 - x) / question.q) ** (m - k)

    top = min(max(k / max(m, 1), p), 1)
    integral, _ = quad(ratio, question.p, 1, points=[top], limit=200, epsabs=0, epsrel=1e-10)
    found = np.exp(question.log_e_value(k, m))
    assert found == pytest.approx(integral / question.q, rel=1e-6)


@pytest.mark.parametrize("z", [0, 1, 2, 5, 8])
def test_the_e_value_is_a_number_for_large_counts(z):
    question = Question(z, 100_000, 0.001)
    for k in (0, 50_000, 99_999, 100_000):
        assert question.log_e_value(k, 100_000) < np.inf
        assert not np.isnan(question.log_e_value(k, 100_000))


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_the_e_value_does_not_grow_on_average(p, share):
    question = Question(z_of(p), 1000, 0.001)
    true = share * p
    for k, m in [(0, 0), (5, 5), (9, 10), (50, 100)]:
        now, hit, miss = (
            np.exp(question.log_e_value(*state)) for state in ((k, m), (k + 1, m + 1), (k, m + 1))
        )
        mean = true * hit + (1 - true) * miss
        assert mean <= now * (1 + 1e-9)
        if share == 1:
            assert mean == pytest.approx(now)


@pytest.mark.parametrize("z", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("n", [50, 1000])
def test_as_many_successes_are_needed_as_the_late_bound_asks(z, n):
    question = Question(z, n, 0.001)
    k = np.arange(1, n + 1)
    bounds = beta.ppf(question.alpha_late, k, n - k + 1)
    enough = k[bounds >= question.p]
    assert question.needed == (enough[0] if len(enough) else n + 1)


def test_both_levels_add_up_to_alpha():
    question = Question(1.0, 100, 0.02)
    assert question.alpha_early + question.alpha_late == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("k", "m", "z"), [(0, 0, 1.0), (84, 100, 1.0), (90, 100, 1.0), (830, 1000, 1.0), (480, 1000, 0)]
)
def test_hopeless_agrees_with_the_beta_binomial_distribution(k, m, z):
    question = Question(z, 2000, 0.001)
    chance = betabinom.sf(question.needed - k - 1, 2000 - m, k + 1, m - k + 1)
    assert question.hopeless(k, m) == (chance < 0.01)


@pytest.mark.parametrize("p", [0.5, 0.841, 0.977])
@pytest.mark.parametrize("n", [300, 1000])
def test_at_the_threshold_a_yes_is_as_rare_as_alpha_says(p, n):
    alpha, count = 0.1, 800
    wrong = wrong_answers(Question(z_of(p), n, alpha), p, count)
    assert 0 < wrong <= most_errors(count, alpha)


def test_below_the_threshold_a_yes_is_rarer_still():
    question, count = Question(z_of(0.841), 1000, 0.1), 500
    assert wrong_answers(question, 0.835, count) <= most_errors(count, 0.1)
    assert wrong_answers(question, 0.75, count) == 0


def test_the_early_test_alone_keeps_its_level():
    question, count, wrong = Question(0.0, 10_000, 0.2), 400, 0
    for seed in range(count):
        hits = torch.stack(list(islice(simulated(0.5, seed), 30))).sum(1).cumsum(0).tolist()
        wrong += any(question.early(k, ROUND * (i + 1)) for i, k in enumerate(hits))
    assert 0 < wrong <= most_errors(count, question.alpha_early)


@pytest.mark.slow
def test_few_samples_and_the_same_answers_as_with_all_of_them():
    generator = np.random.default_rng(0)
    n, alpha, count = 10_000, 0.001, 300
    many = generator.random(count)
    p = np.where(
        many < 0.5,
        generator.beta(200, 1, count),
        np.where(
            many < 0.8, generator.uniform(0.7, 0.98, count), generator.uniform(0.2, 0.7, count)
        ),
    )
    for z in (1.0, 2.0):
        question, differ, used = Question(z, n, alpha), 0, 0
        for seed in range(count):
            rounds = list(islice(simulated(p[seed], seed), n // ROUND))
            answer, samples = decide(question, rounds)
            k = int(torch.stack(rounds).sum())
            fixed = k > 0 and beta.ppf(alpha, k, n - k + 1) >= question.p
            differ, used = differ + (answer != fixed), used + samples
        assert differ <= 0.02 * count
        assert used / count < 1500


def test_the_last_round_may_be_short():
    question = Question(z_of(0.84), 250, 0.001)
    hits = torch.ones(ROUND, dtype=torch.bool)
    hits[:9] = False
    answer, samples = decide(question, iter([hits] * 9))
    assert samples == 250
    assert answer == (question.needed <= 250 - 27)


def test_an_unreachable_radius_takes_no_samples():
    for z in (5.0, 9.0, 50.0):
        assert decide(Question(z, 1000, 0.001), iter(())) == (False, 0)


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def images(n):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


OPTIONS = {"n0": 50, "n": 1000, "alpha": 0.01}


def test_an_image_does_not_know_its_batch():
    smoothed, x = Smoothed(network(), 4, 0.25), images(30)
    whole = certify_at(smoothed, x, radius=0.2, **OPTIONS)
    order = torch.arange(29, -1, -1)
    turned = certify_at(smoothed, x[order], radius=0.2, **OPTIONS)
    alone = [certify_at(smoothed, image[None], radius=0.2, **OPTIONS) for image in x]
    for entry in range(3):
        assert torch.equal(whole[entry][order], turned[entry])
        assert torch.equal(whole[entry], torch.cat([verdict[entry] for verdict in alone]))
    assert len(whole.samples.unique()) > 1
    assert 0 < whole.certified.sum() < 30


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_agrees_with_certify_on_a_halfspace(radius):
    model = Halfspace()
    distances = torch.tensor([-0.9, -0.6, -0.4, -0.05, 0.0, 0.05, 0.4, 0.6, 0.9])
    smoothed, x = Smoothed(model, 2, 0.25), model.at(distances.double())
    fixed = smoothed.certify(x, **OPTIONS)
    found = certify_at(smoothed, x, radius=radius, **OPTIONS)
    sure = (distances.abs() - radius).abs() > 0.05  # either has lost the others at this n
    expected = (fixed.prediction != ABSTAIN) & (fixed.radius >= radius)
    assert torch.equal(found.certified[sure], expected[sure])
    assert torch.equal(found.prediction[found.certified], fixed.prediction[found.certified])
    assert (found.prediction[~found.certified] == ABSTAIN).all()
    assert (found.samples <= 1050).all()
    assert found.samples[0] <= 250


def test_certificates_of_a_halfspace_at_its_own_radius_are_as_rare_as_alpha_says():
    model, count, alpha = Halfspace(), 400, 0.1
    x = model.at(torch.full((count,), 0.2, dtype=torch.float64))
    found = certify_at(Smoothed(model, 2, 0.25), x, radius=0.2, n0=20, n=300, alpha=alpha)
    assert 0 < found.certified.sum() <= most_errors(count, alpha)


def test_a_network_of_nan_certifies_nothing():
    class Nan(nn.Module):
        def forward(self, noisy):
            return torch.full((len(noisy), 3), torch.nan)

    found = certify_at(Smoothed(Nan(), 3, 0.25), images(2), radius=0.0, **OPTIONS)
    assert found.prediction.tolist() == [ABSTAIN] * 2
    assert not found.certified.any()
