import sys

import pytest
import torch
import torchattacks as library
from torch import nn

from robustprune.adapters import attack_arguments
from robustprune.adapters import torchattacks as adapter
from robustprune.errors import MissingDependencyError, UsageError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 10),
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 6, 6, generator=generator)
    with torch.no_grad():
        return images, network().eval()(images).argmax(1)


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("PGD", {"eps": 0.1, "alpha": 0.03, "steps": 4}),
        ("PGDL2", {"eps": 0.5, "alpha": 0.2, "steps": 4}),
        ("FFGSM", {"eps": 0.1, "alpha": 0.12}),
        ("TPGD", {"eps": 0.1, "alpha": 0.03, "steps": 4}),
        ("DeepFool", {"steps": 5}),
        ("Square", {"eps": 0.9, "n_queries": 20, "seed": 3}),
    ],
)
def test_perturb_is_the_library_s_own_result(batch, attack, arguments):
    images, labels = batch
    model = network()
    torch.manual_seed(7)
    found = adapter.perturb(attack, model, images, labels, **arguments)
    torch.manual_seed(7)
    expected = getattr(library, attack)(model.eval(), **arguments)(images, labels)
    assert torch.equal(found, expected)
    assert not torch.equal(found, images)
    assert not found.requires_grad


@pytest.mark.slow
def test_autoattack_is_the_library_s_own_result_for_its_number_of_steps(batch):
    images, labels = batch
    model = network().eval()
    ours = {"norm": "linf", "eps": 0.002, "version": "rand", "num_classes": 10, "seed": 3}
    expected = library.AutoAttack(
        model, norm="Linf", eps=0.002, version="rand", n_classes=10, seed=3
    )(images, labels)
    assert torch.equal(adapter.autoattack(model, images, labels, steps=10, **ours), expected)


@pytest.mark.parametrize(("num_classes", "targets"), [(4, 3), (10, 9), (100, 9)])
def test_autoattack_sets_steps_and_targets_of_every_member(
    batch, monkeypatch, num_classes, targets
):
    made = []
    build = library.AutoAttack

    def spy(*args, **kwargs):
        made.append(build(*args, **kwargs))
        made[0].forward = lambda images, labels: images
        return made[0]

    monkeypatch.setattr(library, "AutoAttack", spy)
    adapter.autoattack(
        network(),
        *batch,
        norm="l2",
        eps=0.3,
        version="plus",
        steps=100,
        num_classes=num_classes,
        seed=8,
    )
    members = made[0]._autoattack.attacks
    assert [type(member).__name__ for member in members] == [
        *("APGD", "APGD", "FAB", "Square", "APGDT", "FAB")
    ]
    for member in members:
        assert (member.norm, member.eps, member.seed) == ("L2", 0.3, 8)
        assert getattr(member, "steps", 100) == 100
        assert getattr(member, "n_target_classes", targets) == targets


def test_each_module_gets_its_own_mode_back(batch):
    model = network().train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    statistics = model[1].running_mean.clone()
    adapter.perturb("PGD", model, *batch, steps=2)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model[1].running_mean, statistics)


def test_a_network_in_eval_mode_stays_there(batch):
    model = network().eval()
    adapter.perturb("PGD", model, *batch, steps=2)
    assert not any(module.training for module in model.modules())


def test_modes_are_back_after_a_failure(batch):
    model = network().train()
    with pytest.raises(RuntimeError):
        adapter.perturb("PGD", model, batch[0][:, :1], batch[1])
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("attack", ["PGD", "PGDL2", "CW", "FAB", "JSMA", "DeepFool"])
def test_one_image_channels_last_and_frozen_parameters(batch, attack):
    model = network().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = batch[0][:1].contiguous(memory_format=torch.channels_last)
    perturbed = adapter.perturb(attack, model, images, batch[1][:1])
    assert perturbed.shape == images.shape
    assert perturbed.isfinite().all()


def test_labels_are_not_needed_where_the_attack_needs_none(batch):
    assert adapter.perturb("TPGD", network(), batch[0], eps=0.1).shape == batch[0].shape


def test_every_name_is_an_attack():
    names = attack_arguments.attack_names()
    assert {"PGD", "CW", "AutoAttack", "Square"} <= set(names)
    assert not {"MultiAttack", "LGV", "Attack"} & set(names)


def test_unknown_attacks_are_named():
    with pytest.raises(UsageError, match=r"no attack 'PGD3'\. Did you mean 'PGD'"):
        attack_arguments.check_arguments("PGD3", {})
    with pytest.raises(UsageError, match=r"no attack 'deepfool'\. Did you mean 'DeepFool'"):
        attack_arguments.check_arguments("deepfool", {})


def test_unknown_arguments_are_named():
    with pytest.raises(UsageError, match=r"PGD has no argument 'epsilon'.*Choices: alpha, eps"):
        attack_arguments.check_arguments("PGD", {"epsilon": 1})
    with pytest.raises(UsageError, match="no argument 'model'"):
        attack_arguments.check_arguments("PGD", {"model": 1})


def test_a_missing_library_comes_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps torchattacks"):
        attack_arguments.attack_names()


def test_takes_argument():
    assert attack_arguments.takes_argument("APGD", "seed")
    assert not attack_arguments.takes_argument("PGD", "seed")


@pytest.mark.parametrize(
    ("attack", "traits"),
    [
        ("PGD", ("eps", "linf", False, "alpha", "steps")),
        ("PGDRSL2", ("eps", "l2", False, "alpha", "steps")),
        ("FFGSM", ("eps", "linf", False, "alpha", None)),
        ("SPSA", ("eps", "linf", False, "lr", "nb_iter")),
        ("PIFGSM", ("max_epsilon", "linf", False, None, None)),
        ("Square", ("eps", None, False, None, None)),
        ("FAB", ("eps", None, True, None, None)),
        ("CW", (None, None, True, None, None)),
        ("JSMA", (None, None, True, None, None)),
    ],
)
def test_traits(attack, traits):
    assert attack_arguments.traits(attack) == traits


@pytest.mark.parametrize(
    "attack",
    [
        name
        for name in attack_arguments.attack_names()
        if attack_arguments.traits(name).radius and name not in ("AutoAttack", "Square")
    ],
)
def test_what_we_call_bounded_is(batch, attack):
    traits = attack_arguments.traits(attack)
    perturbed = adapter.perturb(attack, network(), *batch, **{traits.radius: 0.05})
    delta = (perturbed - batch[0]).flatten(1)
    lengths = delta.norm(dim=1) if traits.norm == "l2" else delta.abs().amax(1)
    assert lengths.max() <= 0.05 + 1e-6


@pytest.mark.parametrize("attack", ["PGD", "AutoAttack"])
def test_a_network_without_parameters_is_attacked_like_another(batch, attack, capsys):
    class Without(nn.Module):
        """As a sparse copy that is compiled code only."""

        def __init__(self):
            super().__init__()
            self.call = [network().eval().requires_grad_(False)]

        def forward(self, images):
            return self.call[0](images)

    arguments = {"eps": 0.1} | ({"seed": 0} if attack == "AutoAttack" else {"steps": 2})
    found = []
    for model in (network().requires_grad_(False), Without()):
        torch.manual_seed(0)
        found.append(adapter.perturb(attack, model, *batch, **arguments))
    assert torch.equal(*found)
    assert capsys.readouterr().out == ""
