import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm
from torch import nn

from robustprune.adapters.smoothing import ABSTAIN, ROUND, Smoothed, lower_confidence_bound

from .smooth import SHAPE, Halfspace, most_errors


class Fixed(nn.Module):
    """Gives these classes in turn, whatever it sees: counts are known."""

    def __init__(self, classes, num_classes):
        super().__init__()
        self.classes, self.num_classes, self.seen = torch.tensor(classes), num_classes, 0

    def forward(self, images):
        turn = (self.seen + torch.arange(len(images))) % len(self.classes)
        self.seen += len(images)
        return nn.functional.one_hot(self.classes[turn], self.num_classes).float()


def clopper_pearson(k, n, alpha):
    """Where k or more successes of n have the probability alpha."""
    return brentq(lambda p: binom.sf(k - 1, n, p) - alpha, 1e-12, 1 - 1e-12, xtol=1e-14)


def images(n, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def classifier():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.mark.parametrize(
    ("k", "n", "alpha"), [(9_900, 10_000, 0.001), (51, 100, 0.05), (10_000, 10_000, 0.001)]
)
def test_the_bound_is_clopper_and_pearsons(k, n, alpha):
    found = lower_confidence_bound(torch.tensor([k]), n, alpha).item()
    assert found == pytest.approx(clopper_pearson(k, n, alpha), abs=1e-9)
    theirs = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
    assert found == pytest.approx(theirs.low, abs=1e-9)


def test_no_success_bounds_nothing():
    assert lower_confidence_bound(torch.tensor([0]), 100, 0.01).tolist() == [0]


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_radius_is_sigma_times_the_quantile_of_the_bound(sigma):
    smoothed = Smoothed(Fixed([2] * 9 + [0], 3), 3, sigma)
    prediction, radius = smoothed.certify(images(1), n0=50, n=1000, alpha=0.001)
    assert prediction.tolist() == [2]
    expected = sigma * norm.ppf(clopper_pearson(900, 1000, 0.001))
    assert radius.item() == pytest.approx(expected, rel=1e-9)


def test_too_close_to_call_abstains_with_radius_zero():
    smoothed = Smoothed(Fixed([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1], 2), 2, 0.5)
    prediction, radius = smoothed.certify(images(1), n0=100, n=1100, alpha=0.001)
    assert (prediction.item(), radius.item()) == (ABSTAIN, 0.0)


@pytest.mark.parametrize("num", [1, 99, 100, 101, 250])
def test_counts_exactly_as_many_samples_as_asked(num):
    counts = Smoothed(classifier(), 4, 0.5).sample_under_noise(images(3), num, "estimation")
    assert counts.shape == (3, 5)
    assert counts.sum(1).tolist() == [num] * 3


def test_more_samples_begin_with_the_same_ones():
    smoothed = Smoothed(classifier(), 4, 0.5)
    few, many = (smoothed.sample_under_noise(images(4), n, "estimation") for n in (130, 170))
    assert (few <= many).all()


@pytest.mark.parametrize("purpose", ["selection", "estimation"])
def test_noise_is_gaussian_and_not_clipped(purpose):
    class Recorder(nn.Module):
        seen = ()

        def forward(self, noisy):
            self.seen = (*self.seen, noisy)
            return torch.zeros(len(noisy), 2)

    image, recorder = images(1), Recorder()
    Smoothed(recorder, 2, 0.5).sample_under_noise(image, 1000, purpose)
    noise = (torch.cat(recorder.seen) - image).flatten()
    assert abs(noise.mean()) < 0.5 * 4 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.cat(recorder.seen).min() < 0
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_selection_and_estimation_have_independent_noise():
    rounds = {
        purpose: next(Smoothed(classifier(), 4, 1.0).rounds(images(1)[0], purpose))
        for purpose in ("selection", "estimation")
    }
    assert not torch.equal(rounds["selection"], rounds["estimation"])


def test_an_image_does_not_know_its_batch():
    smoothed, x = Smoothed(classifier(), 4, 0.5), images(7)
    whole = smoothed.sample_under_noise(x, 1000, "estimation")
    alone = [smoothed.sample_under_noise(image[None], 1000, "estimation") for image in x]
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert torch.equal(whole, torch.cat(alone))
    assert torch.equal(whole[order], smoothed.sample_under_noise(x[order], 1000, "estimation"))
    assert len(whole.unique(dim=0)) == 7


def test_the_network_always_sees_one_image_a_round_at_a_time():
    shapes = []
    model = classifier()
    model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    Smoothed(model, 4, 0.5).certify(images(3), n0=10, n=250, alpha=0.01)
    assert shapes == [(ROUND, *SHAPE)] * (3 + 9)


def test_the_layout_of_an_image_does_not_matter():
    smoothed = Smoothed(classifier(), 4, 0.5)
    x = torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    other = x.contiguous(memory_format=torch.channels_last)
    plain, last = (smoothed.sample_under_noise(i, 500, "estimation") for i in (x, other))
    assert torch.equal(plain, last)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    model, x = classifier(), images(4)
    state = torch.get_rng_state()
    first, again, other = (
        Smoothed(model, 4, 0.5, seed=seed).sample_under_noise(x, 500, "estimation")
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_without_finite_logits_count_against(bad):
    class Broken(nn.Module):
        def forward(self, noisy):
            logits = torch.zeros(len(noisy), 3)
            logits[:, 1] = 1
            logits[: len(noisy) // 2, 0] = bad  # NaN and infinity would be class 0
            return logits

    smoothed = Smoothed(Broken(), 3, 0.5)
    assert smoothed.sample_under_noise(images(1), 1000, "estimation").tolist() == [[0, 500, 0, 500]]
    assert smoothed.certify(images(1), n0=100, n=1000, alpha=0.01).prediction.item() == ABSTAIN


def test_a_network_of_nan_certifies_nothing():
    class Nan(nn.Module):
        def forward(self, noisy):
            return torch.full((len(noisy), 3), math.nan)

    smoothed = Smoothed(Nan(), 3, 0.5)
    prediction, radius = smoothed.certify(images(2), n0=100, n=1000, alpha=0.01)
    assert (prediction.tolist(), radius.tolist()) == ([ABSTAIN] * 2, [0.0] * 2)


def test_the_network_is_used_in_eval_mode_without_gradients_and_left_as_found():
    model = nn.Sequential(nn.BatchNorm2d(1), classifier()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []
    model.register_forward_hook(lambda m, _, out: modes.append((m.training, out.requires_grad)))
    Smoothed(model, 4, 0.5).certify(images(2), n0=10, n=100, alpha=0.01)
    assert set(modes) == {(False, False)}
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_certified_radius_of_a_halfspace_is_below_the_true_one_and_near_it():
    model, sigma = Halfspace(), 0.5
    true = torch.linspace(0.02, 1.0, 50, dtype=torch.float64)
    sign = torch.where(torch.arange(50) % 2 == 0, 1, -1)
    prediction, radius = Smoothed(model, 2, sigma).certify(
        model.at(true * sign), n0=100, n=2000, alpha=1e-5
    )
    assert (radius <= true).all()
    sure = true > 0.1
    assert torch.equal(prediction[sure], (sign[sure] > 0).long())
    expected = sigma * norm.ppf(
        [clopper_pearson(round(p * 2000), 2000, 1e-5) for p in norm.cdf(true[sure] / sigma)]
    )
    assert (radius[sure] - torch.tensor(expected)).abs().max() < 0.1


@pytest.mark.parametrize("distance", [0.0, 0.1, 0.3])
def test_radii_are_too_large_at_most_as_often_as_alpha_says(distance):
    model, count, alpha = Halfspace(), 600, 0.1
    x = model.at(torch.full((count,), distance, dtype=torch.float64))
    _, radius = Smoothed(model, 2, 0.25).certify(x, n0=20, n=200, alpha=alpha)
    wrong = int((radius > distance).sum())
    assert wrong <= most_errors(count, alpha)
    assert wrong > 0  # or this test could not fail


def test_bounds_over_simulated_counts_err_at_most_as_often_as_alpha_says():
    count, alpha = 5000, 0.05
    for p in (0.5, 0.84, 0.977):
        counts = torch.from_numpy(binom.rvs(400, p, size=count, random_state=1))
        wrong = int((lower_confidence_bound(counts, 400, alpha) > p).sum())
        assert 0 < wrong <= most_errors(count, alpha)
