import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.pruners.rewiring import BORN, distinct
from tests.pruners.nets import at_work, context, linear, network, progress, sections

NAME = "1.weight"


def rewiring(model=None, density: float = 0.5, *, seed: int = 0, **options):
    """It at work, its training begun, and an optimizer that has momentum."""
    pruner = pruners.create("deep_rewiring", **options)
    masked = attach(network() if model is None else model)
    method = pruner.method(context(pruner, density, seed=seed))
    (stage,) = pruner.stages(density, sections())
    method.begin(stage, masked)
    optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=0.1, momentum=0.9)
    return method, masked, stage, optimizer


def thetas(method, masked) -> dict[str, torch.Tensor]:
    return {n: w.detach() * method.signs[n] for n, w in masked.weights.items()}


def test_it_begins_with_the_sizes_of_the_network_and_signs_of_its_own():
    method, masked, _, _ = rewiring()
    before = attach(network()).weights
    for name, weight in masked.weights.items():
        assert torch.equal(weight.abs(), before[name].abs())
        assert torch.equal(weight.sign(), method.signs[name].float())
        assert 0.3 < (method.signs[name] > 0).float().mean() < 0.7
    assert not torch.equal(masked.weights["3.weight"].sign(), before["3.weight"].sign())
    again, other = rewiring()[0], rewiring(seed=1)[0]
    assert torch.equal(method.signs["3.weight"], again.signs["3.weight"])
    assert not torch.equal(method.signs["3.weight"], other.signs["3.weight"])


def test_first_weights_can_be_enlarged_so_that_signals_keep_their_variance():
    method, masked, _, _ = rewiring(linear([3.0] * 50, [1.0] * 50), 0.04, rescale=True)
    weight, plain = masked.weights[NAME], rewiring(linear([3.0] * 50, [1.0] * 50), 0.04)[1]
    torch.testing.assert_close(weight, 5 * plain.weights[NAME])
    assert torch.equal(weight.sign(), method.signs[NAME].float())


@pytest.mark.parametrize("anew", ["network", "layer"])
def test_no_sign_ever_flips_and_the_number_stays_whatever_training_does(anew):
    method, masked, stage, optimizer = rewiring(density=0.2, anew=anew, noise=0.1, l1=0.1)
    signs = {name: sign.clone() for name, sign in method.signs.items()}
    kept, counts = masked.kept, set()
    start = [report.kept for report in masked.report()]
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        for weight in masked.weights.values():  # gradients that drive many weights across 0
            weight.grad = 30 * torch.randn(weight.shape, generator=generator)
        optimizer.step()
        method.after_step(stage, masked, optimizer, progress(step))
        assert masked.kept == kept
        assert all(report.kept for report in masked.report())
        for name, theta in thetas(method, masked).items():
            assert bool((theta[masked.masks[name]] > 0).all())
            assert torch.equal(method.signs[name], signs[name])
        shown = dict(masked.model.named_parameters())
        assert all(bool(parameter.isfinite().all()) for parameter in shown.values())
        counts.add(tuple(report.kept for report in masked.report()))
    assert masked.turnover > 0.3
    assert (counts == {tuple(start)}) is (anew == "layer")


def test_what_reaches_0_is_dropped_and_as_many_begin_elsewhere_small_without_momentum():
    method, masked, stage, optimizer = rewiring(linear([1.0] * 40), 0.5, noise=0.0)
    weight, sign, before = masked.weights[NAME], method.signs[NAME], masked.masks[NAME].clone()
    optimizer.state[weight]["momentum_buffer"] = torch.ones_like(weight)
    kept = before[0].nonzero().flatten()
    across, at_0, small = kept[:3], kept[3], kept[4]
    with torch.no_grad():
        weight[0, across] *= -1
        weight[0, at_0] = 0
        weight[0, small] *= 1e-6
    method.after_step(stage, masked, optimizer, progress(0))
    mask = masked.masks[NAME]
    assert int(mask.sum()) == 20
    born = mask & (weight.abs() < 1e-9)
    assert int(born.sum()) == 4
    assert bool((born & ~before).any())
    expected = BORN * sign[born].float()
    assert torch.equal(weight[born], expected)
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert bool((momentum[born] == 0).all())
    assert bool((momentum[~born] == 1).all())
    survivors = mask & ~born
    assert torch.equal(survivors[0].nonzero().flatten(), kept[4:])
    assert weight[0, small].abs().item() == pytest.approx(1e-6)


def test_kept_weights_are_stirred_by_rate_times_noise_and_others_are_not():
    size = 20000
    method, masked, stage, optimizer = rewiring(linear([5.0] * size), 0.5, noise=0.3)
    mask, before = masked.masks[NAME], masked.weights[NAME].detach().clone()
    method.after_step(stage, masked, optimizer, progress(0))
    moved = masked.weights[NAME].detach() - before
    assert bool((moved[~mask] == 0).all())
    assert moved[mask].std().item() == pytest.approx(0.1 * 0.3, rel=0.03)
    assert moved[mask].mean().item() == pytest.approx(0, abs=0.002)
    assert torch.equal(masked.masks[NAME], mask)


def test_l1_pulls_towards_0_by_rate_times_its_weight():
    method, masked, stage, optimizer = rewiring(linear([5.0] * 10), 0.5, noise=0.0, l1=2.0)
    mask = masked.masks[NAME]
    method.after_step(stage, masked, optimizer, progress(0))
    theta = thetas(method, masked)[NAME]
    torch.testing.assert_close(theta[mask], torch.full((5,), 5 - 0.1 * 2))
    assert bool((theta[~mask] == 5).all())


def test_a_layer_that_has_lost_all_gets_one_and_the_rest_may_go_anywhere():
    method, masked, stage, optimizer = rewiring(density=0.2, noise=0.0)
    kept = masked.kept
    with torch.no_grad():
        masked.weights["0.weight"].neg_()
    method.after_step(stage, masked, optimizer, progress(0))
    first, second = (report.kept for report in masked.report())
    assert first + second == kept
    assert first >= 1
    assert second > kept // 2
    # only one weight left in all, and lost: it is born in its own layer
    method, masked, stage, optimizer = rewiring(linear([1.0, 2.0]), 0.5, noise=0.0)
    for _ in range(5):
        with torch.no_grad():
            masked.weights[NAME].neg_()
        method.after_step(stage, masked, optimizer, progress(0))
        assert masked.kept == 1


@pytest.mark.parametrize(("count", "total"), [(0, 0), (0, 9), (3, 9), (9, 9), (5, 400)])
def test_numbers_are_different_and_each_as_likely(count, total):
    generator, seen = torch.Generator().manual_seed(0), torch.zeros(max(total, 1))
    for _ in range(2000):
        drawn = distinct(count, total, generator)
        assert len(set(drawn.tolist())) == len(drawn) == count
        seen[drawn] += 1
    if count:
        share = seen / 2000
        assert share.mean().item() == pytest.approx(count / total)
        spread = (count / total * (1 - count / total) / 2000) ** 0.5
        assert (share - count / total).abs().max() <= 4.5 * spread


def test_other_structures_are_refused():
    with pytest.raises(UsageError, match="use 'weight'"):
        pruners.create("deep_rewiring", structure={"name": "filter"})


def test_signs_are_part_of_the_state():
    method, *_ = rewiring()
    other, _, _ = at_work("deep_rewiring", network(), 0.5)
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(sign, other.signs[name]) for name, sign in method.signs.items())
