import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import Loss
from robustprune.pruners import sharpened
from tests.pruners.nets import at_work, begun, linear, network, progress, sections

NAME = "1.weight"
EVERY = {"steps": 2, "start": 0.0, "stop": 0.5}
TWENTY = [float(number) for number in range(1, 21)]


def ramping(**options):
    """Gradual pruning of 20 weights to 2, its stage begun."""
    method, masked, (prune, finetune) = at_work(
        "gradual", linear(TWENTY), 0.1, **({"every": EVERY} | options)
    )
    method.begin(prune, masked)
    return method, masked, prune, finetune


def no_loss(*, again: bool = False) -> Loss:
    return Loss(torch.tensor(0.0), torch.zeros(1, 1), {})


def test_the_density_falls_along_the_cubic_ramp():
    # of 16 steps the first 8 are the stretch, and steps 1, 3, 5, 7 are due, at t = step / 8;
    # 20·(0.1 + 0.9·(1 − t)³) = 2 + 18·(7/8)³, (5/8)³, (3/8)³, (1/8)³ = 14.06, 6.39, 2.95, 2.04
    method, masked, prune, _ = ramping()
    counts = []
    for step in range(16):
        method.after_step(prune, masked, None, progress(step, total=16))
        counts.append(masked.kept)
    assert counts == [20, 14, 14, 6, 6, 3, 3, 2] + [2] * 8
    assert masked.masks[NAME].tolist() == [[False] * 18 + [True] * 2]
    assert method.density == 0.1


def test_the_first_step_after_the_stretch_sets_the_asked_density():
    # one step in 5 is due: of the first 8 of 16 only step 4, at t = 1/2: 2 + 18/8 = 4.25
    method, masked, prune, _ = ramping(every={"steps": 5, "stop": 0.5})
    counts = []
    for step in range(12):
        method.after_step(prune, masked, None, progress(step, total=16))
        counts.append(masked.kept)
    assert counts == [20] * 4 + [4] * 4 + [2] * 4


def test_the_ramp_starts_where_it_is_told_and_finetuning_at_the_end_of_it():
    method, masked, _, finetune = ramping(initial=0.5)
    assert masked.kept == 10
    method.begin(finetune, masked)
    assert masked.kept == 2
    method.after_step(finetune, masked, None, progress(1, total=16))
    assert masked.kept == 2
    with pytest.raises(UsageError, match=r"initial is 0\.5, below the asked density 0\.6"):
        pruners.create("gradual", initial=0.5).stages(0.6, sections())


def test_what_is_pruned_keeps_its_value_and_comes_back_with_it_once_others_are_smaller():
    method, masked, prune, _ = ramping()
    for step in range(6):
        method.after_step(prune, masked, None, progress(step, total=16))
    assert masked.masks[NAME][0].nonzero().flatten().tolist() == [17, 18, 19]
    masked.weights[NAME].data[0, 18:] = torch.tensor([0.5, 0.7])  # shrunk below 17, which is pruned
    method.after_step(prune, masked, None, progress(7, total=16))
    assert masked.masks[NAME][0].nonzero().flatten().tolist() == [16, 17]
    assert masked.model[1].weight[0, 16:].tolist() == [17.0, 18.0, 0.0, 0.0]


def test_no_epoch_above_the_asked_density_is_selected_as_the_best():
    method, masked, prune, finetune = ramping()
    eligible = []
    for step in range(12):
        method.after_step(prune, masked, None, progress(step, total=16))
        eligible.append(method.eligible(prune, masked))
    assert eligible == [False] * 8 + [True] * 4
    assert ramping()[0].eligible(finetune, masked)


def test_the_density_of_the_ramp_is_part_of_the_state():
    method, masked, prune, _ = ramping()
    method.after_step(prune, masked, None, progress(3, total=16))
    other, *_ = ramping()
    other.load_state_dict(method.state_dict())
    assert other.density == method.density == pytest.approx(0.1 + 0.9 * (5 / 8) ** 3)


def test_both_train_weights_as_finetune_says_at_a_constant_rate_and_as_long_as_prune():
    for name in ("gradual", "dns"):
        one = pruners.create(name, prune={"batch_size": 2})
        prune, finetune = one.stages(0.1, sections())
        assert (prune.options.epochs, prune.options.batch_size) == (2, 2)
        assert (finetune.options.epochs, finetune.options.batch_size) == (3, 4)
        rates = [stage.options.schedule.registered_name for stage in (prune, finetune)]
        assert rates == ["constant", "cosine"]
        prune, _ = one.stages(0.1, {"finetune": sections()["finetune"]})
        assert prune.options.epochs == 3
        changes = {"epochs": 7, "schedule": "step"}
        prune, _ = pruners.create(name, prune=changes).stages(0.1, sections())
        assert (prune.options.epochs, prune.options.schedule.registered_name) == (7, "step")


def test_a_structure_of_one_density_has_no_ramp():
    with pytest.raises(UsageError, match="the ramp goes through others: use 'weight'"):
        pruners.create("gradual", structure={"name": "n_m"})


def test_sharpness_moves_the_kept_weights_of_the_ramp_and_puts_them_back():
    torch.manual_seed(0)
    method, masked, prune, _ = ramping()
    for step in range(4):
        method.after_step(prune, masked, None, progress(step, total=16))
    weight, mask = masked.weights[NAME], masked.masks[NAME]
    weight.data /= 10
    start = weight.detach().clone()
    images = torch.rand(3, 20)

    def gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.clone().requires_grad_(True)
        (found,) = torch.autograd.grad((images @ at.T).square().mean(), at)
        return torch.where(mask, found, 0.0)

    def closure(*, again: bool = False) -> Loss:
        weight.grad = None
        with masked.cached():
            masked.model(images).square().mean().backward()
        return no_loss()

    kept = torch.where(mask, start, 0.0)
    slope = gradient(kept)
    moved = kept + 0.5 * kept.norm() * slope / slope.norm()
    sharpened(closure, method=method, stage=prune, masked=masked, radius=0.5)()
    torch.testing.assert_close(weight.grad, gradient(moved))
    assert torch.equal(weight, start)
    assert torch.equal(masked.masks[NAME], mask)


# -- dynamic network surgery -----------------------------------------------------------------------


def surgery(weights: list[float], density: float, **options):
    """It at work on one layer, whose mask is renewed at each step."""
    usual = {"gamma": 0.0, "stop": 1.0}
    method, masked, (prune, finetune) = at_work("dns", linear(weights), density, **usual | options)
    method.begin(prune, masked)
    return method, masked, prune, finetune


def renewed(method, masked, weights: list[float]) -> list[bool]:
    masked.weights[NAME].data = torch.tensor([weights], dtype=torch.float32)
    method.operate(masked, progress(0))
    return masked.masks[NAME][0].tolist()


def test_it_prunes_and_splices_and_leaves_what_lies_between():
    # half of 6: the threshold is the third largest, 10; out at 9 and below, in above 11
    method, masked, _, _ = surgery([20.0, 15.0, 10.0, 9.5, 9.0, 1.0], 0.5)
    assert renewed(method, masked, [20, 15, 10, 9.5, 9.0, 1]) == [True] * 4 + [False] * 2
    # 10 again: what lies between stays as it was, 9.5 in and 10.5 out
    assert (
        renewed(method, masked, [20, 10, 8, 9.5, 10.5, 1])
        == [True, True, False, True] + [False] * 2
    )
    # and again: 11.5 is spliced, 9.5 was out
    assert renewed(method, masked, [20, 10, 9.5, 8, 11.5, 1]) == [True] * 2 + [False] * 2 + [
        True,
        False,
    ]
    # it is 12 now, for 10.8 and 13.2: 14 comes back, and 12 stays out
    assert renewed(method, masked, [20, 9, 14, 12, 1, 1]) == [True, False, True] + [False] * 3


def test_its_own_thresholds_are_those_of_the_start():
    # |w| of 1, 2, 3, 6: μ = 3, σ = √3.5; at c_rate 0.5 the threshold is 3.935, for 3.54 and 4.33
    method, masked, _, _ = surgery([1.0, -2.0, 3.0, -6.0], 0.5, c_rate=0.5)
    assert method.thresholds == {NAME: pytest.approx(3 + 0.5 * 3.5**0.5)}
    assert renewed(method, masked, [3.6, -3.5, 4.4, -6]) == [True, False, True, True]
    assert renewed(method, masked, [3.5, -4.2, 3.6, 60]) == [False, False, True, True]
    assert renewed(method, masked, [4.2, -4.4, 0, 60]) == [False, True, False, True]
    other, *_ = surgery([1.0, 1.0, 1.0, 1.0], 0.5, c_rate=0.5)
    other.load_state_dict(method.state_dict())
    assert other.thresholds == method.thresholds


def test_a_threshold_above_all_leaves_the_largest_and_one_below_0_leaves_all():
    method, masked, _, _ = surgery([1.0, 2.0, 3.0], 0.5, c_rate=50)
    assert renewed(method, masked, [1, 2, 3]) == [False, False, True]
    method, masked, _, _ = surgery([1.0, 2.0, 3.0], 0.5, c_rate=-50)
    assert method.thresholds == {NAME: 0.0}
    assert renewed(method, masked, [1, 2, 3]) == [True] * 3


def test_pruned_weights_move_by_the_gradient_at_the_masked_ones():
    method, masked, prune, finetune = surgery([3.0, 1.0], 0.5)
    images, seen = torch.tensor([[1.0, 2.0]]), []

    def closure(*, again: bool = False) -> Loss:
        optimizer.zero_grad()
        loss = masked.model(images).square().sum() / 2
        seen.append(loss.item())
        loss.backward()
        return no_loss()

    optimizer = torch.optim.SGD(masked.weights.values(), lr=0.1)
    method.step(prune, masked, closure, optimizer, progress(0))
    assert seen == [4.5]  # the mask was renewed before the step: 1.0 is out of it
    # the residual is 3, so the gradient is 3·(1, 2)
    torch.testing.assert_close(masked.weights[NAME].data, torch.tensor([[2.7, 0.4]]))
    method.begin(finetune, masked)
    method.step(finetune, masked, closure, optimizer, progress(0))
    torch.testing.assert_close(masked.weights[NAME].data, torch.tensor([[2.43, 0.4]]))


def test_renewals_are_as_frequent_as_it_says_and_end_at_stop():
    gamma, power, draws = 3.0, 2.0, 400
    for step, expected in ((0, 1.0), (40, (1 + 3 * 0.4 / 0.8) ** -2), (79, None), (80, 0.0)):
        method, masked, prune, _ = surgery([3.0, 1.0], 0.5, gamma=gamma, power=power, stop=0.8)
        changed = 0
        for _ in range(draws):
            masked.set({NAME: torch.ones(1, 2, dtype=torch.bool)})
            optimizer = torch.optim.SGD(masked.weights.values(), lr=0.1)
            method.step(prune, masked, no_loss, optimizer, progress(step))
            changed += masked.kept == 1
        if expected is None:
            assert changed > 0
        else:
            assert changed / draws == pytest.approx(expected, abs=0.03)


def test_thresholds_follow_the_allocation():
    sizes = {name: w.detach().abs().flatten() for name, w in attach(network()).weights.items()}
    for allocation, counts in (("uniform", (7, 18)), ("global", (1, 24))):
        masked, method, _ = begun(pruners.create("dns", allocation=allocation), 0.1)
        found = method.quantiles(masked, method.entries(masked))
        for (name, size), count in zip(sizes.items(), counts, strict=True):
            assert found[name] == size.sort(descending=True).values[count - 1].item()


def test_whole_filters_are_pruned_and_spliced():
    masked, method, _ = begun(
        pruners.create("dns", structure={"name": "filter"}, gamma=0, margin=0), 0.5
    )
    method.operate(masked, progress(0))
    rows = masked.masks["0.weight"].flatten(1)
    assert bool((rows.all(1) | ~rows.any(1)).all())
    sums = masked.weights["0.weight"].detach().abs().flatten(1).sum(1)
    assert sums[rows.any(1)].min() > sums[~rows.any(1)].max()


def test_at_the_end_the_density_is_exact_whatever_came_out():
    method, masked, prune, finetune = surgery(TWENTY, 0.1, c_rate=-1.0)
    method.operate(masked, progress(0))
    shown = method.after_epoch(prune, masked, None, progress(0), {})
    assert shown["density"] == masked.kept / 20 > 0.5
    method.begin(finetune, masked)
    assert masked.masks[NAME].tolist() == [[False] * 18 + [True] * 2]
    assert method.after_epoch(finetune, masked, None, progress(0), {}) == {}
