import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import objectives, pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import Objective
from robustprune.pruners import Stage
from robustprune.pruners.mad import at_quantiles, kfac, quadratic_parts
from robustprune.types import Images
from tests.pruners.nets import at_work, linear

BATCH = Images(
    torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3, bias=False)
    )


def at_mad(model, density=0.5, **options):
    usual = {"images": BATCH, "objective": "pgd"}
    return at_work("mad", model, density, **(usual | options))


def test_on_one_image_the_factors_give_the_exact_fisher_of_a_linear_layer():
    # of one image xxᵀ and ggᵀ are no means, so that A ⊗ G is the Fisher matrix of the whole layer
    model, image, label = linear([0.3, -0.2], [0.1, 0.4]), torch.tensor([[2.0, -1.0]]), [1]
    masked = attach(model)
    inputs, outputs = kfac(masked, image, torch.tensor(label))
    weight = model[1].weight.detach().double().requires_grad_()
    F.cross_entropy(image.double() @ weight.T, torch.tensor(label)).backward()
    gradient = weight.grad
    fisher = torch.einsum("ij,kl->ijkl", gradient, gradient)
    for output in range(2):
        block = outputs["1.weight"][output] * inputs["1.weight"][0]
        torch.testing.assert_close(block, fisher[output, :, output], rtol=1e-5, atol=1e-7)


def test_factors_are_means_over_images_and_positions():
    # by hand, of two images: x = (1, 2), (3, 0); f = x, so that p = softmax(x)
    masked = attach(linear([1.0, 0.0], [0.0, 1.0]))
    images = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    inputs, outputs = kfac(masked, images, torch.tensor([0, 0]))
    assert inputs["1.weight"].tolist() == [[[5.0, 1.0], [1.0, 2.0]]]
    first, second = 1 / (1 + math.e), math.exp(3) / (1 + math.exp(3))  # p of class 0
    expected = ((first - 1) ** 2 + (second - 1) ** 2) / 2
    assert outputs["1.weight"].tolist() == pytest.approx([expected, expected], rel=1e-5)


def test_factors_of_a_convolution_are_those_of_its_patches():
    model = small()
    inputs, outputs = kfac(attach(model), *BATCH)
    patches = F.unfold(BATCH.images, 2, padding=1).double()  # (n, d, positions)
    total = sum(x @ x.T for x in patches)
    torch.testing.assert_close(inputs["0.weight"][0], total / 6)
    maps = model[0](BATCH.images).detach().requires_grad_()
    F.cross_entropy(model[1:](maps), BATCH.labels, reduction="sum").backward()
    torch.testing.assert_close(outputs["0.weight"].float(), maps.grad.square().mean((0, 2, 3)))


def test_activations_in_place_change_no_factor():
    plain, in_place = small(), small()
    in_place[1] = nn.ReLU(inplace=True)
    (inputs, outputs), found = (kfac(attach(model), *BATCH) for model in (plain, in_place))
    for name in outputs:
        torch.testing.assert_close(found[1][name], outputs[name], rtol=0, atol=0)
        torch.testing.assert_close(found[0][name], inputs[name], rtol=0, atol=0)


def test_parts_add_up_to_the_quadratic_form_and_are_what_single_weights_have_in_it():
    draw = torch.Generator().manual_seed(1)
    moved = torch.randn(4, 3, generator=draw, dtype=torch.double)
    root = torch.randn(2, 3, 3, generator=draw, dtype=torch.double)
    inputs, outputs = root @ root.mT, torch.rand(4, generator=draw, dtype=torch.double)
    parts = quadratic_parts(moved, inputs, outputs)
    for i in range(4):
        matrix = outputs[i] * inputs[i // 2]  # two groups of two rows
        assert float(parts[i].sum()) == pytest.approx(float(moved[i] @ matrix @ moved[i]) / 2)
        for j in range(3):
            hand = sum(moved[i, j] * matrix[j, k] * moved[i, k] / 2 for k in range(3))
            assert float(parts[i, j]) == pytest.approx(float(hand))


def test_masks_take_adams_steps_within_their_bounds(monkeypatch):
    """Against the mask as a parameter of a network that is differentiated as a whole."""
    model = linear([0.5, -1.0], [-0.3, 0.8])
    images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.tensor([0, 1])
    method, masked, _ = at_mad(model, steps=7)
    dense = {"1.weight": model[1].weight.detach().clone()}
    method.mask(objectives.create("benign"), masked, dense, images, None, labels)
    found = masked.weights["1.weight"].detach()

    raw = torch.full((2, 2), math.log(math.e - 1), requires_grad=True)
    adam = torch.optim.Adam([raw], lr=0.1)
    for _ in range(7):
        adam.zero_grad()
        F.cross_entropy(images @ (dense["1.weight"] * F.softplus(raw)).T, labels).backward()
        adam.step()
        raw.data.clamp_(math.log(math.exp(1e-4) - 1), math.log(math.e - 1))
    torch.testing.assert_close(found, dense["1.weight"] * F.softplus(raw.detach()))
    share = found / dense["1.weight"]
    assert float(share.min()) < 0.9
    assert float(share.max()) <= 1.0 + 1e-6


def test_the_saliency_of_a_batch_is_that_of_what_the_masks_took_away():
    model = linear([0.5, -1.0], [-0.3, 0.8])
    method, masked, _ = at_mad(model, steps=3)
    images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.tensor([0, 1])
    dense = model[1].weight.detach().clone()
    benign = objectives.create("benign")
    masked.weights["1.weight"].requires_grad_()
    found = method.of_batch(benign, masked, Images(images, labels))["1.weight"]
    assert torch.equal(model[1].weight, dense)  # put back
    method.mask(benign, masked, {"1.weight": dense}, images, None, labels)
    masked_weight = model[1].weight.detach().double()
    logits = images.double() @ masked_weight.T
    gradients = logits.softmax(1) - F.one_hot(labels)
    matrix = images.double().T @ images.double() / 2
    moved = dense.double() - masked_weight
    expected = torch.empty(2, 2).double()
    for i in range(2):
        for j in range(2):
            curved = gradients[:, i].square().mean() * (matrix[j] @ moved[i])
            expected[i, j] = moved[i, j] * curved / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_saliencies_are_means_over_the_batches_that_are_asked_for(monkeypatch):
    method, masked, (stage,) = at_mad(linear([1.0, 2.0]), batches=2)
    given = iter([1.0, 4.0, 100.0])
    monkeypatch.setattr(
        method, "of_batch", lambda *_: {"1.weight": torch.full((1, 2), next(given))}
    )
    monkeypatch.setattr(
        method, "_context", method.context._replace(batches=lambda size: iter([BATCH] * 3))
    )
    assert method.saliency(stage, masked)["1.weight"].tolist() == [[2.5, 2.5]]


def test_each_class_of_the_last_layer_loses_the_same_share(monkeypatch):
    model = small()
    method, masked, (stage,) = at_mad(model, 0.25)
    draw = torch.Generator().manual_seed(2)
    shown = {n: torch.randn(w.shape, generator=draw).double() for n, w in masked.weights.items()}
    shown["3.weight"] *= torch.tensor([[1.0], [100.0], [0.01]])
    monkeypatch.setattr(method, "saliency", lambda *_: shown)
    method.begin(stage, masked)
    assert masked.kept == round(0.25 * (16 + 108))
    last, first = masked.masks["3.weight"], masked.masks["0.weight"]
    assert last.sum(1).tolist() == [9, 9, 9]
    for row, mask in zip(shown["3.weight"], last, strict=True):
        assert sorted(row.topk(9).indices.tolist()) == mask.nonzero()[:, 0].tolist()
    assert int(first.sum()) == 4
    assert bool((shown["0.weight"][first].min() > shown["0.weight"][~first].max()).item())


def test_the_last_layer_left_is_no_output_where_that_is_excluded(monkeypatch):
    torch.manual_seed(0)
    layers = (nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    masked = attach(nn.Sequential(nn.Flatten(), *layers), exclude=["5"])
    method, _, (stage,) = at_mad(small(), 0.5)
    shown = {n: torch.ones_like(w).double() for n, w in masked.weights.items()}
    shown["3.weight"][:2] = 100.0  # two of its rows are ahead of all that there is
    monkeypatch.setattr(method, "saliency", lambda *_: shown)
    method.begin(stage, masked)
    assert masked.masks["3.weight"].sum(1).tolist()[:2] == [4, 4]


def test_a_layer_that_is_never_called_is_refused():
    class Spare(nn.Sequential):
        def forward(self, given):
            return self[0](given.flatten(1))

    method, masked, (stage,) = at_mad(Spare(nn.Linear(4, 3), nn.Linear(2, 2)))
    with pytest.raises(UsageError, match=r"layers 1 are not called .* exclude"):
        method.begin(stage, masked)


def test_values_at_the_quantiles_of_others():
    values = torch.tensor([[3.0, 1.0, 2.0, 9.0], [0.0, 0.1, 0.3, 0.2]])
    others = torch.tensor([50.0, 10.0, 40.0, 20.0, 30.0, 60.0, 80.0, 70.0])
    assert at_quantiles(values, others).tolist() == [[60, 20, 40, 80], [20, 40, 80, 60]]


@pytest.mark.parametrize("objective", ["pgd", "trades", "stability", "gaussian", "free"])
def test_it_leaves_weights_modes_and_the_random_numbers_as_they_were(objective):
    model = small()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    method, masked, (stage,) = at_mad(model, objective=objective, steps=2)
    state = torch.get_rng_state()
    method.begin(stage, masked)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    after = {n.replace("parametrizations.", "").replace(".original", ""): p
             for n, p in model.named_parameters()}  # fmt: skip
    assert all(torch.equal(after[n], p) for n, p in before.items())
    assert masked.kept == 62


class CallsAlone(Objective):
    """Defines no attack."""

    registered_name = "mine"

    def __call__(self, model, images, labels, progress):
        raise NotImplementedError


def test_what_it_cannot_do_is_said():
    stage, benign = Stage("finetune", None), objectives.create("benign")
    assert not list(pruners.create("mad").problems(stage, benign))
    (reason,) = pruners.create("mad", structure="block").problems(stage, benign)
    assert "structure: weight" in reason
    (reason,) = pruners.create("mad").problems(stage, CallsAlone())
    assert "__call__ alone" in reason
