import pytest
import torch
from torch.nn import functional as F

from robustprune.objectives import create
from robustprune.types import Progress

from .toys import batch, network


def plain_trades(model, images, labels, *, norm, eps, step, steps, beta):
    """TRADES from its paper, in plain PyTorch: Alg. 1 and Eq. 5."""
    kl = torch.nn.KLDivLoss(reduction="sum")
    model.eval()
    target = F.softmax(model(images), dim=1).detach()
    x = (images + 0.001 * torch.randn_like(images)).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(kl(F.log_softmax(model(x), dim=1), target), x)[0]
        if norm == "linf":
            x = torch.max(torch.min(x + step * gradient.sign(), images + eps), images - eps)
        else:
            flat = gradient.flatten(1)
            delta = (x - images).flatten(1) + step * flat / flat.norm(dim=1, keepdim=True)
            length = delta.norm(dim=1, keepdim=True)
            delta = torch.where(length > eps, delta * eps / length, delta)
            x = images + delta.view_as(images)
        x = x.clamp(0, 1).detach()
    model.train()
    p, q = F.softmax(model(images), dim=1), F.softmax(model(x), dim=1)
    robust = (p * (p.log() - q.log())).sum(1).mean()
    return F.cross_entropy(model(images), labels) + beta * robust


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.6)])
def test_total_equals_a_plain_trades(norm, eps):
    """In double: the first gradient is so small that its signs are noise in float32."""
    images, labels = batch()
    images = images.double()
    twin, model = network().double(), network().double()
    torch.manual_seed(9)
    expected = plain_trades(twin, images, labels, norm=norm, eps=eps, step=eps / 3, steps=5, beta=4)
    objective = create("trades", norm=norm, eps=eps, step_size=eps / 3, steps=5, beta=4)
    torch.manual_seed(9)
    loss = objective(model, images, labels, Progress())
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert loss.parts["robust"] > 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_equal_those_of_a_plain_trades(norm):
    images, labels = batch()
    images = images.double()
    options = {"norm": norm, "eps": 0.1, "steps": 5}
    plain, ours = network().double(), network().double()
    torch.manual_seed(9)
    plain_trades(plain, images, labels, step=0.025, beta=6, **options).backward()
    torch.manual_seed(9)
    create("trades", **options)(ours, images, labels, Progress()).total.backward()
    for expected, found in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.allclose(expected.grad, found.grad, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_radius_leaves_cross_entropy(norm):
    images, labels = batch()
    loss = create("trades", norm=norm, eps=0)(network(), images, labels, Progress())
    expected = F.cross_entropy(network()(images), labels)
    assert loss.parts["robust"].item() == pytest.approx(0, abs=1e-6)
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-5)
    assert loss.parts["natural"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_parts_add_up():
    images, labels = batch()
    loss = create("trades", eps=0.1, beta=3)(network(), images, labels, Progress())
    assert loss.total.item() == pytest.approx(
        (loss.parts["natural"] + 3 * loss.parts["robust"]).item(), rel=1e-6
    )
    assert not any(part.requires_grad for part in loss.parts.values())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.3), ("l2", 3.0)])
def test_perturbations_lie_in_the_ball_and_raise_the_kl(norm, eps):
    images, labels = batch()
    model = network().eval()
    perturbed = create("trades", norm=norm, eps=eps).attack(model, images, labels, Progress())
    delta = (perturbed - images).flatten(1)
    lengths = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert lengths.max() <= eps * (1 + 1e-5)
    assert lengths.min() > eps / 2
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert not perturbed.requires_grad

    def kl(x):
        with torch.no_grad():
            p, q = F.log_softmax(model(images), 1), F.log_softmax(model(x), 1)
        return (p.exp() * (p - q)).sum(1)

    nearby = (images + 0.001 * torch.randn_like(images)).clamp(0, 1)
    assert (kl(perturbed) > 10 * kl(nearby)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_sees_the_network_in_eval_mode(norm):
    images, labels = batch()
    seen = []
    model = network(dropout=0.5)
    model[3].register_forward_hook(lambda module, *_: seen.append(module.training))
    create("trades", norm=norm, eps=0.1, steps=3)(model, images, labels, Progress())
    assert seen == [False] * 4 + [True] * 2


def test_the_norm_layers_see_one_clean_and_one_perturbed_batch():
    images, labels = batch()
    model = network()
    create("trades", eps=0.1, steps=3)(model, images, labels, Progress())
    assert model[1].num_batches_tracked == 2
