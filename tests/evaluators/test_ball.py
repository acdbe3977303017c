import pytest
import torch

from robustprune.evaluators.ball import check_ball, distance, inside


def images():
    return torch.full((3, 1, 2, 2), 0.5)


def test_distances_by_hand():
    moved = images()
    moved[0, 0, 0] += torch.tensor([0.3, -0.4])
    assert distance(moved, images(), "linf").tolist() == pytest.approx([0.4, 0, 0])
    assert distance(moved, images(), "l2").tolist() == pytest.approx([0.5, 0, 0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_rim_is_inside_up_to_float32(norm):
    moved = images()
    moved[1, 0, 0, 0] += 0.1 + 5e-6
    moved[2, 0, 0, 0] += 0.1 + 1e-4
    assert inside(moved, images(), norm=norm, eps=0.1).tolist() == [True, True, False]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_pixels_must_be_finite_and_in_range(value):
    moved = images()
    moved[1, 0, 0, 0] = value
    assert inside(moved, images(), norm="linf", eps=9.0).tolist() == [True, False, True]


def test_leaving_the_ball_names_evaluator_norm_and_excess():
    moved = images()
    moved[2, 0, 0, 0] += 0.3
    with pytest.raises(RuntimeError, match=r"'mine'.*l2 ball.*0\.1.*1 of 3 images, by up to 0\.2"):
        check_ball(moved, images(), norm="l2", eps=0.1, evaluator="mine")


def test_a_fair_batch_passes():
    moved = images() + 0.1
    assert check_ball(moved, images(), norm="linf", eps=0.1, evaluator="mine").all()
