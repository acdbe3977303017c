"""Shares of layers, learned: gradients against finite differences, the penalty by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune import pruners
from robustprune.masking import MaskedModel, attach
from robustprune.masking.allocations import share_out
from robustprune.objectives import Loss
from robustprune.pruners import Context, Stage, sharpened
from robustprune.pruners.harp import HarpMethod
from robustprune.training import optimizers
from robustprune.types import Progress
from tests.pruners.nets import at_work, begun, network

X = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(10) % 5
Closure = Callable[..., Loss]


def learning(
    density: float = 0.3, model: nn.Module | None = None, **options: Any
) -> tuple[MaskedModel, HarpMethod, Any]:
    """A network whose scores and shares are about to be learned."""
    model = network().double() if model is None else model
    method, masked, (stage, *_) = at_work("harp", model, density, **options)
    method.prepare(stage, masked)
    method.begin(stage, masked)
    method.quotas.data = method.quotas.data.to(next(model.parameters()).dtype)
    model.requires_grad_(False)
    for group in method.param_groups(stage, masked):
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return masked, method, stage


def passes(masked: MaskedModel, method: HarpMethod, stage: Any, epoch: int = 0) -> Closure:
    """The loop's closure."""

    def closure(*, again: bool = False) -> Loss:
        method.quotas.grad = None
        masked.model.zero_grad()
        with masked.cached():
            total = F.cross_entropy(masked.model(X), Y)
            penalty = method.penalty(stage, masked, Progress(epoch))
            (total + penalty).backward()
        return Loss(total.detach(), total.detach(), {})

    return closure


def still() -> torch.optim.Optimizer:
    """An optimizer that moves nothing."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def by_differences(masked: MaskedModel, masks: dict[str, Tensor], name: str) -> float:
    """The loss's slope as every entry of a layer's mask, as a real number, rises alike."""
    plain = network().double()
    plain.load_state_dict(attach(plain).bake() and plain.state_dict())
    plain.train()

    def loss(delta: float) -> float:
        for each, mask in masks.items():
            value = mask.double() + (delta if each == name else 0.0)
            plain.get_parameter(each).data = masked.weights[each].detach() * value
        with torch.no_grad():
            return float(F.cross_entropy(plain(X), Y))

    return (loss(1e-5) - loss(-1e-5)) / 2e-5


def slopes(method: HarpMethod) -> Tensor:
    """dk/dq."""
    share = method.quotas.detach().sigmoid()
    return (1 - method.least) * share * (1 - share)


def test_a_share_gets_the_gradient_of_all_entries_of_its_layer_at_once():
    masked, method, stage = learning()
    method.quotas.data -= 0.5  # within the budget: no penalty
    method.select(stage, masked)
    method.step(stage, masked, passes(masked, method, stage), still(), Progress())
    found = method.quotas.grad / slopes(method)
    expected = [by_differences(masked, masked.masks, name) for name in masked.weights]
    assert min(map(abs, expected)) > 1e-3
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


def test_the_gradient_under_sharpness_is_that_at_the_moved_scores():
    masked, method, stage = learning()
    method.quotas.data -= 0.5
    method.select(stage, masked)
    signs = {name: score.detach().sign() for name, score in masked.scores.items()}
    seen: dict[str, Tensor] = {}
    inner = passes(masked, method, stage)
    flips = 0

    def closure(*, again: bool = False) -> Loss:
        nonlocal flips
        seen.update({name: mask.clone() for name, mask in masked.masks.items()})
        flips = sum(int((s.detach().sign() != signs[n]).sum()) for n, s in masked.scores.items())
        return inner(again=again)

    wrapped = sharpened(closure, method=method, stage=stage, masked=masked, radius=0.9)
    method.step(stage, masked, wrapped, still(), Progress())
    assert flips > 3, "or the test says nothing about signs"
    assert any(not torch.equal(mask, masked.masks[name]) for name, mask in seen.items())
    expected = [by_differences(masked, seen, name) for name in masked.weights]
    found = method.quotas.grad / slopes(method)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


def test_the_penalty_by_hand():
    masked, method, stage = learning(0.25, alpha=0.2, gamma=0.5)
    assert list(method.sizes.values()) == [72, 180]
    method.quotas.data = torch.tensor([0.0, math.log(3)]).double()  # sigmoid: 1/2, 3/4
    least = 0.2 * 0.25
    shares = [least + 0.95 / 2, least + 0.95 * 3 / 4]
    excess = (72 * shares[0] + 180 * shares[1]) / 252 / 0.25 - 1
    penalty = method.penalty(stage, masked, Progress(epoch=2))
    assert penalty.item() == pytest.approx(3 * 0.5 * excess)
    (gradient,) = torch.autograd.grad(penalty, method.quotas)
    expected = [1.5 * n / 252 / 0.25 * 0.95 * s * (1 - s) for n, s in ((72, 0.5), (180, 0.75))]
    torch.testing.assert_close(gradient, torch.tensor(expected).double())
    method.quotas.data -= 9
    assert method.penalty(stage, masked, Progress(epoch=2)).item() == 0


def test_a_step_adds_the_penaltys_gradient():
    masked, method, stage = learning(gamma=5.0)
    method.quotas.data += 1
    method.select(stage, masked)
    gradients = []
    for epoch in (0, 1):
        method.step(stage, masked, passes(masked, method, stage, epoch), still(), Progress(epoch))
        gradients.append(method.quotas.grad.clone())
    penalty = method.penalty(stage, masked, Progress())
    (once,) = torch.autograd.grad(penalty, method.quotas)
    torch.testing.assert_close(gradients[1] - gradients[0], once)


def test_the_penalty_grows_until_the_budget_is_met_and_stays_then():
    masked, method, stage = learning(gamma=0.01)
    curves = []
    for epoch, move in enumerate((1.0, 0.0, -3.0, 4.0)):
        method.quotas.data += move
        assert method.weight(Progress(epoch)) == pytest.approx(0.01 * min(epoch + 1, 3))
        curves.append(method.after_epoch(stage, masked, still(), Progress(epoch), {}))
        assert method.eligible(stage, masked) == (epoch == 2)
    assert method.frozen == pytest.approx(0.03)
    densities = [curve["density"] for curve in curves]
    assert densities[0] == densities[1] > 0.3 > densities[2]


def test_a_density_from_which_much_is_cut_at_once_is_told_after_the_last_epoch():
    _, method, stage = learning(density=0.05)
    high, near = [{"density": 0.3}], [{"density": 0.09}]
    before = high * (stage.options.epochs - 1)
    assert before
    assert method.alarm(stage, before) == method.alarm(stage, before + near) == ""
    told = method.alarm(stage, before + high)
    assert "at a density of 0.3, and the mask is now cut to 0.05" in told
    assert "lower quota_lr" in told
    assert "raise gamma, which is 0.01" in told
    assert method.alarm(Stage("finetune", stage.options), before + high) == ""
    best = stage._replace(options=stage.options.model_copy(update={"select": "best"}))
    assert method.alarm(best, [{"density": 0.05}, *before[1:], *high]) == ""
    assert method.alarm(best, before + high) == told


@pytest.mark.parametrize(("excess", "within"), [(-0.5, True), (4e-5, True), (6e-5, False)])
def test_the_budget_is_met_to_four_decimals(excess, within):
    masked, method, stage = learning(0.25)
    share = 0.25 * (1 + excess)
    method.quotas.data.fill_((share - method.least) / (1 - method.least)).logit_()
    assert method.density().item() == pytest.approx(share, rel=1e-9)
    assert method.eligible(stage, masked) is within


def test_shares_start_from_the_allocation_within_their_bounds():
    _, method, _ = learning(allocation="erk")
    kept = pruners.create("harp", allocation="erk").allocation(
        {n: w.abs() for n, w in attach(network()).weights.items()}, 0.3
    )
    expected = [count / n for count, n in zip(kept.values(), (72, 180), strict=True)]
    assert method.shares().tolist() == pytest.approx(expected)
    masked, method, _ = learning(0.5, alpha=0.9)
    few = {n: torch.zeros_like(m) for n, m in masked.masks.items()}
    few["0.weight"][0, 0, 0, 0] = True  # 1/72 is below k_min, where the reference has NaN
    few["3.weight"][:] = True
    masked.set(few)
    method.start_quotas(masked)
    assert method.shares().tolist() == pytest.approx([0.45 + 0.55e-4, 0.45 + 0.55 * 0.99])


def test_masks_follow_scores_and_shares():
    masked, method, stage = learning()
    method.quotas.data = torch.tensor([2.0, -3.0]).double()
    masked.scores["0.weight"].data[1] *= 0
    method.select(stage, masked)
    counts = [round(k * n) for k, n in zip(method.shares().tolist(), (72, 180), strict=True)]
    assert [layer.kept for layer in masked.report()] == counts
    for name, mask in masked.masks.items():
        size = masked.scores[name].detach().abs()
        assert size[mask].min() >= size[~mask].max()


class Branches(nn.Module):
    """A layer that sees the class, and one that sees noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.signal, self.noise = nn.Linear(20, 5, bias=False), nn.Linear(20, 5, bias=False)
        self.signal.weight.data = torch.eye(5).repeat(1, 4) + 0.1 * torch.randn(5, 20)
        self.noise.weight.data = torch.randn(5, 20)

    def forward(self, images: Tensor) -> Tensor:
        signal, noise = images.flatten(1).split(20, 1)
        return self.signal(signal) + self.noise(noise)


def test_the_layer_that_matters_gets_more_and_the_total_is_exact():
    masked, method, stage = learning(0.25, Branches(), gamma=0.3)
    optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=0.1, momentum=0.9)
    draws = torch.Generator().manual_seed(1)
    for step in range(60):
        labels = torch.randint(5, (32,), generator=draws)
        signal = torch.eye(5)[labels].repeat(1, 4) / 4 + 0.1 * torch.randn(32, 20, generator=draws)
        images = torch.cat([signal, torch.randn(32, 20, generator=draws)], 1)

        def closure(*, again: bool = False) -> Loss:
            optimizer.zero_grad()
            with masked.cached():
                total = F.cross_entropy(masked.model(images), labels)  # noqa: B023
                (total + method.penalty(stage, masked, Progress(step // 10))).backward()  # noqa: B023
            return Loss(total.detach(), total.detach(), {})

        method.step(stage, masked, closure, optimizer, Progress())
        method.after_step(stage, masked, optimizer, Progress())
    signal, noise = (layer.density for layer in masked.report())
    assert signal > 0.35
    assert noise < 0.15
    assert abs(method.density().item() / 0.25 - 1) < 0.25
    chosen = pruners.create("harp").stages(0.25, {"prune": stage.options})[1]
    method.prepare(chosen, masked)
    method.begin(chosen, masked)
    assert masked.kept == 50
    its_signal, its_noise = (layer.density for layer in masked.report())
    assert its_signal / its_noise == pytest.approx(signal / noise, rel=0.2)


def test_numbers_in_proportion_come_to_the_total():
    sizes = {"a": 10, "b": 100, "c": 1000}
    assert share_out({"a": 1, "b": 2, "c": 7}, sizes, 10) == {"a": 1, "b": 2, "c": 7}
    assert share_out({"a": 5, "b": 20, "c": 75}, sizes, 50) in (
        {"a": 2, "b": 10, "c": 38},
        {"a": 3, "b": 10, "c": 37},
    )
    assert share_out({"a": 9, "b": 9, "c": 9}, sizes, 60) == {"a": 10, "b": 25, "c": 25}
    assert share_out({"a": 1, "b": 1, "c": 998}, sizes, 12) == {"a": 1, "b": 1, "c": 10}
    assert share_out({"a": 1, "b": 1, "c": 998}, sizes, 3) == {"a": 1, "b": 1, "c": 1}
    assert share_out({"a": 1, "b": 1, "c": 998}, sizes, 1110) == sizes
    for total in range(3, 1111, 7):
        counts = share_out({"a": 3.3, "b": 0.1, "c": 123.0}, sizes, total)
        assert sum(counts.values()) == total
        assert all(1 <= counts[name] <= size for name, size in sizes.items())


def test_entries_of_a_structure_are_what_a_share_is_of():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    masked, method, stage = learning(0.5, model.double(), structure="filter")
    assert method.sizes == {"0.weight": 8}
    method.quotas.data.fill_(1.0)
    method.select(stage, masked)
    filters = masked.masks["0.weight"].flatten(1).sum(1).tolist()
    assert sorted(set(filters)) == [0, 18]
    assert filters.count(18) == round(method.shares().item() * 8)
    method.step(stage, masked, passes(masked, method, stage), still(), Progress())
    ds = masked.scores["0.weight"]
    expected = (ds.grad * ds.sign()).sum()
    expected += method.weight(Progress()) / 0.5  # one layer: d(density)/dk = 1
    torch.testing.assert_close(method.quotas.grad[0], expected * slopes(method)[0])


def test_shares_are_taken_over_into_the_tensor_that_the_optimizer_holds():
    masked, method, stage = learning()
    held = method.param_groups(stage, masked)[-1]["params"][0]
    method.load_state_dict({"quotas": torch.tensor([1.0, 2.0]).double(), "frozen": 0.5})
    assert held is method.quotas
    assert held.tolist() == [1.0, 2.0]
    assert method.weight(Progress(7)) == 0.5


def test_shares_have_a_rate_of_their_own_and_no_decay():
    masked, method, stage = learning(quota_lr=0.3)
    optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=1.0, weight_decay=0.1)
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert rates == [(1.0, 0.1), (1.0, 0.1), (0.3, 0.0)]


@pytest.mark.parametrize(("scores", "shares"), [(10.0, 0.1), (1e-5, 1e-5)])
def test_shares_take_the_rate_of_scores_up_to_the_sources(scores, shares):
    masked, method, stage = learning()
    slower = stage.options.model_copy(update={"optimizer": optimizers.create("sgd", lr=scores)})
    *_, group = method.param_groups(stage._replace(options=slower), masked)
    assert group["lr"] == shares


def test_scores_are_there_until_the_exact_selection():
    masked, method, stages = begun(pruners.create("harp"))
    assert [stage.name for stage in stages] == ["prune", "select", "finetune"]
    assert stages[1].options is None
    assert not masked.scores
    assert isinstance(method.context, Context)


def test_the_exact_selection_leaves_each_filter_what_the_allocation_asks_for():
    allocation = {"name": "global", "minimum": 6}
    masked, method, _ = learning(0.3, allocation=allocation)
    few = {n: torch.zeros_like(mask) for n, mask in masked.masks.items()}
    few["0.weight"][0, 0, 0, :2] = True
    few["3.weight"][:4] = True
    masked.set(few)
    method.begin(Stage("select", None), masked)
    # 4 filters of 6 at least, and 76 of 252 in all
    assert [layer.kept for layer in masked.report()] == [24, 52]


def test_a_structure_of_one_density_is_refused():
    with pytest.raises(ValueError, match="densities of their own"):
        pruners.create("harp", structure="n_m")
