import pytest
import torch

from robustprune.adapters import torchattacks
from robustprune.errors import UsageError
from robustprune.evaluators import create

from .toys import Counting, batch, between, linear, margins


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_agrees_with_the_closed_form_on_two_classes(norm):
    model = linear(2)
    images, labels = batch(model, 60, wrong=4)
    radii = margins(model, images, labels, norm)
    eps = between(radii, 0.5)
    results = create("pgd", norm=norm, eps=eps).judge(model, images, labels, seed=0)
    assert results["pgd"].tolist() == (radii > eps).tolist()
    assert 0 < results["pgd"].sum() < 56


def test_the_pixel_range_counts():
    model = linear(2)
    model[1].weight.data = torch.stack([torch.ones(25), -torch.ones(25)])
    model[1].bias.data = torch.tensor([0.0, 1.0])
    images = torch.full((1, 1, 5, 5), 0.04)  # 25·2·0.04 − 1 = 1 > 0; at 0 it would be −1 < 0
    labels = torch.tensor([0])
    judge = create("pgd", eps=0.5).judge
    assert not judge(model, images, labels, seed=0)["pgd"].item()
    model[1].bias.data = torch.tensor([0.5, 0.0])  # positive even for a black image
    assert judge(model, images, labels, seed=0)["pgd"].item()


def test_restarts_attack_only_survivors():
    model = linear(2)
    images, labels = batch(model, 40, wrong=5)
    radii = margins(model, images, labels, "linf")
    eps = between(radii, 0.5)
    alive = int((radii > eps).sum())
    counting = Counting(model)
    create("pgd", eps=eps, steps=20, restarts=3).judge(counting, images, labels, seed=0)
    assert counting.sizes == [40] + [35] * 21 + [alive] * 21 + [alive] * 21


def test_restarts_stop_when_all_are_broken():
    counting = Counting(linear(2))
    images, labels = batch(counting.model, 10)
    create("pgd", eps=0.9, steps=6, restarts=50).judge(counting, images, labels, seed=0)
    assert counting.sizes == [10] * 8


def test_each_restart_starts_elsewhere(monkeypatch):
    made = []
    original = torchattacks.perturb

    def spy(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torchattacks, "perturb", spy)
    model = linear(2)
    images, labels = batch(model, 3)
    create("pgd", eps=1e-4, step_size=1e-4, steps=1, restarts=2).judge(
        model, images, labels, seed=0
    )
    assert not torch.equal(*made)


def test_the_step_is_a_quarter_of_eps_unless_stated(monkeypatch):
    seen = []

    def spy(attack, model, images, labels, **arguments):
        seen.append((attack, arguments))
        return images

    monkeypatch.setattr(torchattacks, "perturb", spy)
    model = linear(2)
    images, labels = batch(model, 3)
    create("pgd", eps="4/255").judge(model, images, labels, seed=0)
    create("pgd", norm="l2", eps=2, step_size=0.3, steps=7).judge(model, images, labels, seed=0)
    assert seen[0] == (
        "PGD",
        {"eps": 4 / 255, "alpha": 1 / 255, "steps": 50, "random_start": True},
    )
    assert seen[1] == ("PGDL2", {"eps": 2.0, "alpha": 0.3, "steps": 7, "random_start": True})


def test_an_attack_that_leaves_the_ball_is_an_error(monkeypatch):
    def too_far(attack, model, images, labels, **arguments):
        return images + 2 * arguments["eps"]

    monkeypatch.setattr(torchattacks, "perturb", too_far)
    model = linear(2)
    with pytest.raises(RuntimeError, match=r"'era'.*linf ball"):
        create("pgd", eps=0.1, label="era").judge(model, *batch(model, 3), seed=0)


@pytest.mark.parametrize("options", [{"eps": 0}, {"steps": 0}, {"restarts": 0}, {"norm": "l1"}])
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        create("pgd", **options)


class WithSource(torch.nn.Module):
    """A network that happens to have a part called as a quantised one's float network."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.source = model, torch.nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


def test_transfer_is_pgd_of_a_network_that_is_not_quantised():
    model = linear(2)
    images, labels = batch(model, 60, wrong=4)
    eps = between(margins(model, images, labels, "linf"), 0.5)
    expected = create("pgd", eps=eps).judge(model, images, labels, seed=0)["pgd"]
    found = create("transfer", eps=eps).judge(WithSource(model), images, labels, seed=0)
    assert torch.equal(found["transfer"], expected)
