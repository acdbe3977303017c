import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import objectives, pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import Objective
from robustprune.pruners import Stage, second_order
from robustprune.pruners.curvature import layer_inputs, reestimate_norms
from robustprune.pruners.second_order import damped, refit, removal_losses
from robustprune.types import Images
from tests.pruners.nets import at_work, context, linear, network

CONVS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": (2, 1), "dilation": 2, "stride": (1, 2)},
    {"groups": 2, "padding": 1},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "circular"},
]


def layer(out: int, width: int, *, count: int = 40):
    """Weights, inputs of each image that depend on one another, and their H = 2·Σxxᵀ/n."""
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, width, generator=draw, dtype=torch.double)
    inputs[:, 1:] += 0.8 * inputs[:, :-1]
    weight = torch.randn(out, width, generator=draw, dtype=torch.double)
    return weight, inputs, (2 * inputs.T @ inputs / count)[None]


def fitted_error(inputs, row, kept) -> float:
    """Mean squared error of the outputs that inputs of ``kept`` can reach at best."""
    target = inputs @ row
    chosen = inputs[:, list(kept)]
    found = torch.linalg.lstsq(chosen, target[:, None]).solution if kept else torch.zeros(0, 1)
    return float(((chosen @ found.double() - target[:, None]) ** 2).sum() / len(inputs))


def greedy(inputs, row):
    """The inputs in the order in which they go, with the errors after each, by brute force."""
    kept, order, errors = set(range(len(row))), [], [0.0]
    while kept:
        error, gone = min((fitted_error(inputs, row, kept - {j}), j) for j in kept)
        kept.remove(gone)
        order.append(gone)
        errors.append(error)
    return order, errors


def test_rows_lose_their_weights_in_the_greedy_order_and_by_what_the_error_grows(monkeypatch):
    monkeypatch.setattr(second_order, "STEPS", 3)  # H⁻¹ is brought up to date in between
    weight, inputs, hessian = layer(3, 8)
    losses = removal_losses(weight, hessian, block=8)
    for row, found in zip(weight, losses, strict=True):
        order, errors = greedy(inputs, row)
        assert found.argsort().tolist() == order
        grown = torch.tensor(errors, dtype=torch.double).diff().cummax(0).values
        torch.testing.assert_close(found[order], grown, rtol=1e-9, atol=1e-12)


def test_each_removal_is_the_best_of_all_even_where_inputs_nearly_repeat():
    # two inputs that cancel: one goes for little, and then the other one for nothing more
    inputs = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.1, 1.0], [0.0, 0.1, 2.0]]).double()
    row = torch.tensor([1.0, -1.0, 0.2]).double()
    losses = removal_losses(row[None], (2 * inputs.T @ inputs / 3)[None], block=3)[0]
    order, errors = greedy(inputs, row)
    assert losses.argsort().tolist() == order
    first = errors[1]
    assert float(losses[order[0]]) == pytest.approx(first)
    assert bool((losses.sort().values.diff() > 0).all())


def test_the_rest_of_a_row_is_the_least_squares_fit_of_its_outputs():
    weight, inputs, hessian = layer(4, 9)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[2] = False
    fitted = refit(weight, hessian, mask)
    assert bool((fitted[~mask] == 0).all())
    for row, target, kept in zip(fitted, weight, mask, strict=True):
        best = torch.linalg.lstsq(inputs[:, kept], (inputs @ target)[:, None]).solution[:, 0]
        torch.testing.assert_close(row[kept], best, rtol=0, atol=1e-8)


def test_a_fit_equals_the_updates_of_single_removals():
    weight, _, hessian = layer(1, 6)
    row, inverse, mask = weight[0].clone(), torch.linalg.inv(hessian[0]), torch.ones(6) > 0
    for gone in (4, 1, 2):
        row = row - inverse[:, gone] * row[gone] / inverse[gone, gone]
        column = inverse[:, gone].clone()
        inverse = inverse - column[:, None] * column / column[gone]
        mask[gone] = False
    fitted = refit(weight, hessian, mask[None])[0]
    torch.testing.assert_close(fitted[mask], row[mask], rtol=0, atol=1e-10)


def test_a_layer_removes_what_is_cheapest_of_any_row():
    weight, inputs, hessian = layer(3, 6)
    losses = removal_losses(weight, hessian, block=6)
    traces = [greedy(inputs, row) for row in weight]
    gone: list[list[int]] = [[], [], []]
    for count in range(1, 18):
        steps = [
            errors[len(g) + 1] - errors[len(g)] if len(g) < 6 else 1e9
            for (_, errors), g in zip(traces, gone, strict=True)
        ]
        row = min(range(3), key=steps.__getitem__)
        gone[row].append(traces[row][0][len(gone[row])])
        smallest = losses.flatten().argsort()[:count].tolist()
        assert sorted(smallest) == sorted(6 * r + j for r, own in enumerate(gone) for j in own)


def test_groups_have_inputs_of_their_own():
    weight, _, hessian = layer(4, 5)
    other = layer(4, 5, count=7)[2]
    both = removal_losses(weight, torch.cat([hessian, other]), block=5)
    assert torch.equal(both[:2], removal_losses(weight[:2], hessian, block=5))
    assert torch.equal(both[2:], removal_losses(weight[2:], other, block=5))
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    fitted = refit(weight, torch.cat([hessian, other]), mask)
    torch.testing.assert_close(fitted[2:], refit(weight[2:], other, mask[2:]))


def outputs_error(weight, hessian, importance, kept):
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[importance.flatten().argsort(descending=True)[:kept]] = True
    change = refit(weight, hessian, mask.view_as(weight)) - weight
    return float((change @ hessian[0] * change).sum()), mask.view_as(weight)


@pytest.mark.parametrize("kept", [128, 51, 26])
def test_blocks_come_near_the_exact_choice_and_beat_magnitude(kept):
    weight, _, hessian = layer(8, 32, count=100)
    exact, _ = outputs_error(weight, hessian, removal_losses(weight, hessian, block=32), kept)
    blocks, _ = outputs_error(weight, hessian, removal_losses(weight, hessian, block=8), kept)
    magnitude, mask = outputs_error(weight, hessian, weight.abs(), kept)
    change = torch.where(mask, 0, weight)
    unfitted = float((change @ hessian[0] * change).sum())
    assert exact <= blocks < 1.25 * exact
    assert blocks < magnitude < unfitted


def test_many_rows_come_in_parts(monkeypatch):
    weight, _, hessian = layer(5, 7)
    losses = removal_losses(weight, hessian, block=7)
    monkeypatch.setattr(second_order, "BYTES", 8 * 49 * 2)  # two rows
    torch.testing.assert_close(removal_losses(weight, hessian, block=7), losses)


def test_damping_is_a_share_of_the_mean_diagonal_and_makes_dead_layers_sound():
    hessians = torch.tensor([[[3.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[3.2, 1.0], [1.0, 1.2]], [[0.1, 0.0], [0.0, 0.1]]])
    torch.testing.assert_close(damped(hessians, 0.1), expected)


@pytest.mark.parametrize("options", CONVS)
def test_a_convolutions_curvature_is_that_of_its_unfolded_linear_layer(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, bias=False, **options)
    images = torch.rand(3, 2, 6, 7)
    # the matrix that maps the weights of an output to it, from autograd
    weight = conv.weight.detach().double()
    conv.double()
    outputs = lambda w: torch.func.functional_call(conv, {"weight": w}, (images.double(),))  # noqa: E731
    jacobian = torch.func.jacrev(outputs)(weight)  # (n, out, h, w, out, in, kh, kw)
    conv.float()
    masked = attach(conv)
    with layer_inputs(masked) as moments:
        conv(images)
    found = moments["weight"]
    for output in range(4):
        inputs = jacobian[:, output, :, :, output].flatten(0, 2).flatten(1)
        group = output // (4 // conv.groups)
        torch.testing.assert_close(found[group], inputs.T @ inputs)


def test_linear_layers_see_every_token_and_calls_add_up(monkeypatch):
    masked = attach(nn.Sequential(nn.Linear(3, 2)))
    tokens = torch.rand(2, 5, 3)
    monkeypatch.setattr("robustprune.pruners.curvature.BYTES", 1)  # image by image
    with layer_inputs(masked) as moments:
        masked.model(tokens)
        masked.model(tokens)
    flat = tokens.flatten(0, 1).double()
    torch.testing.assert_close(moments["0.weight"][0], 2 * flat.T @ flat)
    masked.model(tokens)
    torch.testing.assert_close(moments["0.weight"][0], 2 * flat.T @ flat)


def test_layers_whose_inputs_are_not_seen_are_refused():
    class Own(nn.Conv2d):
        def forward(self, images):
            return super().forward(F.pad(images, (1, 0, 1, 0)))

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, images):
            return F.linear(self.seen(images), self.other.weight)

    with (
        pytest.raises(UsageError, match=r"'0' is a Own"),
        layer_inputs(attach(nn.Sequential(Own(1, 2, 2)))),
    ):
        pass
    masked = attach(Hidden())
    with pytest.raises(UsageError, match="layers other are not called"), layer_inputs(masked):
        masked.model(torch.rand(1, 2))


def test_norms_are_measured_anew_and_nothing_else():
    model = network()
    model.append(nn.Dropout(0.9))
    masked = attach(model)
    model.eval()
    model[0].train()
    batches = [torch.rand(4, 2, 5, 5), torch.rand(6, 2, 5, 5), torch.rand(1, 2, 5, 5)]
    before = {n: p.clone() for n, p in model.named_parameters()}
    reestimate_norms(masked, batches)
    outputs = [model[0](images) for images in batches[:2]]
    means = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    variances = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert [m.training for m in model] == [True, False, False, False, False]
    assert model[1].momentum == 0.1
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def pictures(count: int = 12) -> Images:
    draw = torch.Generator().manual_seed(4)
    return Images(torch.rand(count, 1, 2, 4, generator=draw), torch.arange(count) % 3)


def test_a_network_is_pruned_refitted_and_measured_anew():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)
    )
    model.eval()
    dense, images = [model[1].weight.detach().clone(), model[4].weight.detach().clone()], pictures()
    inputs = [images.images.flatten(1).double()]
    inputs.append(model[:4](images.images).detach().double())
    method, masked, (stage,) = at_work("obc", model, 0.5, images=images, damp=1e-9)
    method.begin(stage, masked)
    for number, (name, x) in enumerate(zip(("1.weight", "4.weight"), inputs, strict=True)):
        mask, original = masked.masks[name], dense[number].double()
        hessian = (2 * x.T @ x / 12)[None]
        importance = removal_losses(original, damped(hessian, 1e-9), block=original.shape[1])
        kept = importance.flatten().argsort(descending=True)[: original.numel() // 2]
        assert mask.flatten().nonzero()[:, 0].tolist() == sorted(kept.tolist())
        for row, target, own in zip(masked.weights[name], original, mask, strict=True):
            best = torch.linalg.lstsq(x[:, own], (x @ target)[:, None], driver="gelsd").solution
            torch.testing.assert_close(row[own], best[:, 0].float(), rtol=1e-3, atol=1e-4)
    outputs = model[1](images.images.flatten(1))
    torch.testing.assert_close(model[2].running_mean, outputs.mean(0))
    assert not model.training


def test_norms_stay_where_they_are_not_asked_for():
    model = network()
    mean = model[1].running_mean.clone()
    images = Images(torch.rand(4, 2, 5, 5), torch.arange(4))
    method, masked, (stage,) = at_work("obc", model, 0.5, images=images, norms=False)
    method.begin(stage, masked)
    assert torch.equal(model[1].running_mean, mean)


def one_layer(objective: str, **options):
    torch.manual_seed(0)
    method, masked, (stage,) = at_work(
        "obc", linear([1.0, 2.0, 3.0], [0.5, -1.0, 2.0]), 0.5,
        images=Images(torch.rand(4, 1, 1, 3), torch.tensor([0, 1, 0, 1])),
        objective=objective, **options,
    )  # fmt: skip
    return method, method.batches(stage, masked), next(method.context.batches(1)).images


class Halved(objectives.get("benign")):  # type: ignore[misc]
    """Attacks by halving."""

    def attack(self, model, images, labels, progress):
        return (images / 2).requires_grad_()


@pytest.mark.parametrize(
    ("calibrate", "factors"), [("adversarial", [0.5]), ("both", [1, 0.5]), ("clean", [1])]
)
def test_it_is_calibrated_on_attacked_images_clean_ones_or_both(calibrate, factors, monkeypatch):
    method, _, images = one_layer("benign", calibrate=calibrate)
    monkeypatch.setattr(method, "objective", lambda stage: Halved())
    found = method.batches(Stage("finetune", None), attach(linear([1.0])))
    assert all(torch.equal(f, images * k) for f, k in zip(found, factors, strict=True))
    assert not any(f.requires_grad for f in found)


@pytest.mark.parametrize("objective", ["benign", "stability"])
def test_clean_images_stand_for_those_of_objectives_without_an_attack(objective):
    _, (found,), images = one_layer(objective)
    assert torch.equal(found, images)


def test_attacks_are_the_objectives():
    _, (found,), images = one_layer("pgd")
    assert 0 < float((found - images).abs().max()) <= 8 / 255 + 1e-6


def test_no_more_images_than_asked_for():
    pruner = pruners.create("obc", images=5, batch_size=3)
    method = pruner.method(context(pruner))
    found = method.batches(Stage("finetune", None), attach(network()))
    assert [len(images) for images in found] == [3, 3]


def test_the_global_allocation_compares_shares_of_the_layers_energy():
    """A layer whose outputs are a thousand times as large loses no less for it."""
    torch.manual_seed(1)
    images, shares = pictures(), []
    for scale in (1.0, 1000.0):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4, bias=False), nn.Linear(4, 3))
        model[1].weight.data *= scale
        method, masked, (stage,) = at_work(
            "obc", model, 0.4, images=images, allocation="global", damp=1e-6
        )
        method.begin(stage, masked)
        shares.append([int(mask.sum()) for mask in masked.masks.values()])
        assert masked.kept == round(0.4 * 44)
    assert shares[0] == shares[1]


def test_long_rows_are_cut_into_blocks(monkeypatch):
    blocks = []
    work = removal_losses
    monkeypatch.setattr(
        second_order,
        "removal_losses",
        lambda *given, block: blocks.append(block) or work(*given, block=block),
    )
    images = Images(torch.rand(4, 2, 5, 5), torch.arange(4))
    method, masked, (stage,) = at_work("obc", network(), 0.5, images=images, exact=18, block=5)
    method.begin(stage, masked)
    assert blocks == [18, 5]


class CallsAlone(Objective):
    """Defines no attack."""

    registered_name = "mine"

    def __call__(self, model, images, labels, progress):
        raise NotImplementedError


def test_what_it_cannot_do_is_said():
    stage, benign = Stage("finetune", None), objectives.create("benign")
    assert not list(pruners.create("obc").problems(stage, benign))
    (reason,) = pruners.create("obc", structure="filter").problems(stage, benign)
    assert "structure 'filter'" in reason
    assert "structure: weight" in reason
    (reason,) = pruners.create("obc").problems(stage, CallsAlone())
    assert "__call__ alone" in reason
    assert not list(pruners.create("obc", calibrate="clean").problems(stage, CallsAlone()))
