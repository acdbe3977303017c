import pytest
import torch

from robustprune.evaluators.criteria import (
    check_ball,
    correct,
    distance,
    inside,
    num_classes,
    survivors,
)

from .toys import batch, linear


def accept_all(perturbed, images):
    return torch.ones(len(images), dtype=torch.bool)


def negative(images, labels):
    return 1 - images


def test_images_wrong_from_the_start_are_broken_and_not_attacked():
    model = linear(4)
    images, labels = batch(model, 10, wrong=3)
    seen = []

    def attack(images, labels):
        seen.append(len(images))
        return images

    outcome = survivors(model, images, labels, attack, accept_all)
    assert seen == [7]
    assert outcome.robust.tolist() == [False] * 3 + [True] * 7
    assert not outcome.fooled.any()


def test_no_attack_when_nothing_is_left():
    model = linear(4)
    images, labels = batch(model, 5, wrong=5)

    def attack(images, labels):
        pytest.fail("there is nothing to attack")

    assert not survivors(model, images, labels, attack, accept_all, rounds=3).robust.any()


def test_later_rounds_get_only_what_is_left():
    model = linear(4)
    images, labels = batch(model, 8)
    other = images[(labels != labels[0]).nonzero()[0]]
    seen = []

    def attack(images, labels):
        seen.append(len(images))
        moved = images.clone()
        moved[labels == labels[0]] = other
        return moved

    outcome = survivors(model, images, labels, attack, accept_all, rounds=2)
    broken = labels == labels[0]
    assert outcome.robust.tolist() == (~broken).tolist()
    assert outcome.fooled.tolist() == broken.tolist()
    assert seen[0] == 8
    assert seen[1] == 8 - int(broken.sum())
    assert torch.equal(outcome.perturbed[broken], other.expand_as(images[broken]))
    assert torch.equal(outcome.perturbed[~broken], images[~broken])


def test_what_is_not_accepted_does_not_count():
    model = linear(2)
    images, labels = batch(model, 6)

    def none(perturbed, images):
        return torch.zeros(len(images), dtype=torch.bool)

    outcome = survivors(model, images, labels, negative, none)
    assert outcome.robust.all()
    assert torch.equal(outcome.perturbed, images)


def test_a_network_of_nan_is_never_right():
    model = linear(3)
    images, _ = batch(model, 4)
    model[1].weight.data.fill_(float("nan"))
    assert not correct(model, images, torch.zeros(4, dtype=torch.long)).any()


def test_num_classes():
    model = linear(7)
    assert num_classes(model, torch.rand(2, 1, 5, 5)) == 7


def grey():
    return torch.full((3, 1, 2, 2), 0.5)


def test_distances_by_hand():
    moved = grey()
    moved[0, 0, 0] += torch.tensor([0.3, -0.4])
    assert distance(moved, grey(), "linf").tolist() == pytest.approx([0.4, 0, 0])
    assert distance(moved, grey(), "l2").tolist() == pytest.approx([0.5, 0, 0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_rim_is_inside_up_to_float32(norm):
    moved = grey()
    moved[1, 0, 0, 0] += 0.1 + 5e-6
    moved[2, 0, 0, 0] += 0.1 + 1e-4
    assert inside(moved, grey(), norm=norm, eps=0.1).tolist() == [True, True, False]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_pixels_must_be_finite_and_in_range(value):
    moved = grey()
    moved[1, 0, 0, 0] = value
    assert inside(moved, grey(), norm="linf", eps=9.0).tolist() == [True, False, True]


def test_leaving_the_ball_names_evaluator_norm_and_excess():
    moved = grey()
    moved[2, 0, 0, 0] += 0.3
    with pytest.raises(RuntimeError, match=r"'mine'.*l2 ball.*0\.1.*1 of 3 images, by up to 0\.2"):
        check_ball(moved, grey(), norm="l2", eps=0.1, evaluator="mine")


def test_a_fair_batch_passes():
    moved = grey() + 0.1
    assert check_ball(moved, grey(), norm="linf", eps=0.1, evaluator="mine").all()
