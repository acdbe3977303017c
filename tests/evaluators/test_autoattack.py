import pytest
import torch

from robustprune.adapters import torchattacks
from robustprune.errors import UsageError
from robustprune.evaluators import create

from .toys import Counting, batch, between, linear, margins


@pytest.fixture
def few_queries(monkeypatch):
    """5000 black-box queries an image that withstands are too slow here, and change nothing."""
    from torchattacks.attacks import autoattack

    square = autoattack.Square
    monkeypatch.setattr(
        autoattack, "Square", lambda model, **kwargs: square(model, **kwargs | {"n_queries": 30})
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize(("classes", "norm"), [(4, "linf"), (10, "linf"), (12, "l2")])
def test_agrees_with_the_closed_form(classes, norm):
    model = linear(classes)
    images, labels = batch(model, 24, wrong=2)
    radii = margins(model, images, labels, norm)
    eps = between(radii, 0.1)
    evaluator = create("autoattack", norm=norm, eps=eps, steps=20)
    robust = evaluator.judge(model, images, labels, seed=3)["autoattack-20"]
    assert robust.tolist() == (radii > eps).tolist()
    assert 0 < robust.sum() < 20


def test_takes_its_steps_on_clean_correct_images_only():
    model = linear(4)
    images, labels = batch(model, 6, wrong=2)
    counting = Counting(model)
    create("autoattack", version="rand", steps=7, eps=1e-4).judge(counting, images, labels, seed=0)
    assert counting.sizes[0] == 1  # for the number of classes
    assert counting.sizes[1] == 6
    assert set(counting.sizes[2:]) == {4}
    eot = 20  # the rand version averages the gradient over so many passes, for two attacks
    assert sum(size == 4 for size in counting.sizes) - 2 * eot * 8 in range(10)


@pytest.mark.parametrize(("version", "classes"), [("standard", 3), ("plus", 2), ("rand", 2)])
def test_too_few_classes_are_named(version, classes):
    model = linear(classes)
    images, labels = batch(model, 2)
    with pytest.raises(UsageError, match=f"at least . classes; this one has {classes}.*pgd"):
        create("autoattack", version=version).judge(model, images, labels, seed=0)


def test_images_too_small_for_square_in_l2_are_named():
    model = linear(4, (1, 4, 4))
    images, labels = batch(model, 2, (1, 4, 4))
    with pytest.raises(UsageError, match=r"its squares fit into in l2, .* these have 4 × 4 pixels"):
        create("autoattack", norm="l2").judge(model, images, labels, seed=0)


def test_the_seed_is_passed_on(monkeypatch):

    seen = {}

    def spy(model, images, labels, **arguments):
        seen.update(arguments)
        return images

    monkeypatch.setattr(torchattacks, "autoattack", spy)
    model = linear(12)
    create("autoattack", norm="l2", eps=0.5).judge(model, *batch(model, 2), seed=99)
    assert seen == {
        "norm": "l2",
        "eps": 0.5,
        "version": "standard",
        "steps": 100,
        "num_classes": 12,
        "seed": 99,
    }


def test_one_image_left_is_no_trouble():
    model = linear(5)
    images, labels = batch(model, 3, wrong=2)
    results = create("autoattack", eps=0.5, steps=5).judge(model, images, labels, seed=0)
    assert torch.equal(results["autoattack-5"], torch.zeros(3, dtype=torch.bool))
