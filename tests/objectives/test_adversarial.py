import pytest
import torch
import torchattacks
from torch.nn import functional as F

from robustprune.errors import UsageError
from robustprune.objectives import create
from robustprune.types import Progress

from .toys import batch, network


def library_loss(attack, images, labels, **arguments):
    """The attack in eval mode, then cross-entropy in train mode, with plain library calls."""
    model = network().eval()
    torch.manual_seed(5)
    perturbed = getattr(torchattacks, attack)(model, **arguments)(images, labels)
    return F.cross_entropy(model.train()(perturbed), labels)


def our_loss(name, images, labels, **options):
    model = network()
    torch.manual_seed(5)
    return create(name, **options)(model, images, labels, Progress())


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_is_cross_entropy_on_the_library_s_images(random_start):
    images, labels = batch()
    expected = library_loss(
        "PGD", images, labels, eps=0.1, alpha=0.03, steps=4, random_start=random_start
    )
    loss = our_loss(
        "pgd", images, labels, eps=0.1, step_size=0.03, steps=4, random_start=random_start
    )
    assert torch.equal(loss.total, expected)


def test_pgd_steps_a_quarter_of_eps():
    objective = create("pgd", eps="8/255")
    assert objective.arguments() == (
        "PGD",
        {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, "random_start": True},
    )


def test_fgsm_with_a_random_start_is_ffgsm():
    images, labels = batch()
    expected = library_loss("FFGSM", images, labels, eps=0.08, alpha=0.1)
    assert torch.equal(our_loss("fgsm", images, labels, eps=0.08).total, expected)


def test_plain_fgsm_by_hand():
    images, labels = batch()
    model = network().eval()
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    perturbed = (images + 0.08 * gradient.sign()).clamp(0, 1)
    expected = F.cross_entropy(model.train()(perturbed), labels)
    loss = our_loss("fgsm", images, labels, eps=0.08, random_start=False)
    assert torch.equal(loss.total, expected)


@pytest.mark.parametrize("name", ["pgd", "fgsm"])
def test_no_radius_is_plain_training(name):
    images, labels = batch()
    expected = F.cross_entropy(network()(images), labels)
    assert torch.equal(our_loss(name, images, labels, eps=0).total, expected)


@pytest.mark.parametrize("name", ["pgd", "fgsm"])
def test_the_adversary_raises_the_loss(name):
    images, labels = batch()
    weak = our_loss(name, images, labels, eps=0.001).total
    assert our_loss(name, images, labels, eps=0.1).total > weak + 0.05


def test_a_radius_above_the_pixel_range_is_refused():
    with pytest.raises(UsageError, match="eps"):
        create("pgd", eps=8)


def test_nfgsm_by_hand():
    """One step of eps from the noisy image, clipped to [0, 1] and to nothing else."""
    images, labels = batch()
    torch.manual_seed(5)
    noisy = (images + torch.empty_like(images).uniform_(-0.15, 0.15)).clamp(0, 1)
    model = network().eval()
    leaf = noisy.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    perturbed = (noisy + 0.1 * gradient.sign()).clamp(0, 1)
    assert (perturbed - images).abs().max() > 0.11
    expected = F.cross_entropy(model.train()(perturbed), labels)
    assert torch.equal(our_loss("nfgsm", images, labels, eps=0.1, noise=1.5).total, expected)


@pytest.mark.parametrize("name", ["fgsm", "nfgsm", "free"])
def test_one_step_is_judged_by_ten_and_a_collapse_is_told(name):
    images, labels = batch()
    objective = create(name, eps=0.1)
    torch.manual_seed(5)
    judged = objective.validation_loss(network().eval(), images, labels, Progress())
    torch.manual_seed(5)
    ten = create("pgd", eps=0.1, steps=10)(network().eval(), images, labels, Progress())
    assert torch.equal(judged.total, ten.total)
    fine = [{"val_accuracy": 0.3}, {"val_accuracy": 0.4}, {"val_accuracy": 0.2}]
    assert objective.alarm(fine) == ""
    assert objective.alarm([{"loss": 1.0}]) == ""
    told = objective.alarm([*fine, {"val_accuracy": 0.19}])
    assert "from 40.0% to 19.0%" in told
    assert f"'{name}'" in told
