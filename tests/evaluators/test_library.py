import pytest
import torch

from robustprune.adapters import torchattacks
from robustprune.errors import UsageError
from robustprune.evaluators import create

from .toys import batch, between, linear, margins


def problem(**options):
    with pytest.raises(UsageError) as caught:
        create("torchattacks", **options)
    return str(caught.value)


def test_deepfool_counts_only_within_the_ball_and_reports_the_norm():
    model = linear(2)
    images, labels = batch(model, 40, wrong=3)
    radii = margins(model, images, labels, "l2")
    eps = between(radii, 0.4)
    evaluator = create("torchattacks", attack="DeepFool", norm="l2", eps=eps * 1.02)
    results = evaluator.judge(model, images, labels, seed=0)
    robust, norms = results["torchattacks_deepfool"], results["torchattacks_deepfool_norm_median"]
    assert robust.tolist() == (radii > eps).tolist()
    fooled = ~robust
    fooled[:3] = False
    assert norms.isfinite().tolist() == fooled.tolist()
    assert torch.allclose(norms[fooled], radii[fooled] * 1.02, rtol=1e-3)


def test_cw_takes_its_own_arguments():
    model = linear(4)
    images, labels = batch(model, 5)
    args = {"c": 10, "steps": 60, "lr": "5/100"}
    evaluator = create("torchattacks", attack="CW", args=args, norm="l2", eps=10, label="cw")
    results = evaluator.judge(model, images, labels, seed=0)
    assert set(results) == {"cw", "cw_norm_median"}
    assert not results["cw"].any()


def test_a_bounded_attack_gets_our_radius_and_reports_no_norm(monkeypatch):
    seen = {}

    def spy(attack, model, images, labels, **arguments):
        seen.update(arguments)
        return images

    monkeypatch.setattr(torchattacks, "perturb", spy)
    model = linear(12)
    evaluator = create("torchattacks", attack="APGDT", norm="l2", eps=0.5, args={"steps": 3})
    results = evaluator.judge(model, *batch(model, 2), seed=7)
    assert set(results) == {"torchattacks_apgdt-3"}
    assert seen == {"norm": "L2", "eps": 0.5, "n_classes": 10, "seed": 7, "steps": 3}


def test_the_radius_may_stand_among_the_arguments():
    evaluator = create("torchattacks", attack="PIFGSM", args={"max_epsilon": "4/255"})
    assert evaluator.radius == 4 / 255


def test_a_bounded_attack_that_leaves_the_ball_is_an_error(monkeypatch):
    def too_far(attack, model, images, labels, **arguments):
        return images + 0.2

    monkeypatch.setattr(torchattacks, "perturb", too_far)
    model = linear(2)
    evaluator = create("torchattacks", attack="FGSM", eps=0.1)
    with pytest.raises(RuntimeError, match="'torchattacks_fgsm'"):
        evaluator.judge(model, *batch(model, 2), seed=0)


def test_unknown_attacks_and_arguments_are_named():
    assert "Did you mean 'DeepFool'?" in problem(attack="DeepFol", eps=1)
    message = problem(attack="CW", eps=1, args={"stepz": 1})
    assert "no argument 'stepz'. Did you mean 'steps'?" in message


def test_a_radius_is_required_and_only_one():
    assert "needs one radius 'eps'" in problem(attack="CW")
    assert "needs one radius 'eps'" in problem(attack="FGSM")
    assert "got [0.1, 0.2]" in problem(attack="FGSM", eps=0.1, args={"eps": 0.2})
    assert "number above 0; got 'small'" in problem(attack="FGSM", args={"eps": "small"})


def test_a_norm_the_attack_does_not_have_is_refused():
    assert "set norm: linf" in problem(attack="PGD", norm="l2", eps=0.5)
    assert "set norm: l2" in problem(attack="PGDL2", eps=0.5)
    assert "beside 'attack'" in problem(attack="APGD", eps=0.5, args={"norm": "L2"})
