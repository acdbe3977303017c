import pytest
import torch

from tests.pruners.nets import at_work, linear, progress


def begun(**options):
    method, masked, stages = at_work("radmm", linear([4.0, -3.0, 2.0, 1.0]), 0.5, **options)
    admm, finetune = stages
    method.begin(admm, masked)
    return method, masked, admm, finetune


def test_the_penalty_is_the_distance_to_the_projection():
    method, masked, admm, _ = begun(rho=0.5)
    penalty = method.penalty(admm, masked, progress(0))
    assert penalty.item() == pytest.approx(0.5 / 2 * (2.0**2 + 1.0**2))
    penalty.backward()
    assert masked.weights["1.weight"].grad.tolist() == [[0.0, 0.0, 1.0, 0.5]]  # ρ·(W − Z + U)


def test_duals_move_every_so_many_epochs_and_rho_grows():
    method, masked, admm, _ = begun(rho=0.5, rho_growth=2.0, every=2)
    (weight,) = masked.weights.values()
    weight.data = torch.tensor([[4.0, -3.0, 2.5, 1.0]])
    curves = method.after_epoch(admm, masked, None, progress(0, epoch=0), {})
    assert (method.rho, method.updates) == (0.5, 0)
    assert curves["residual"] == pytest.approx((7.25 / 32.25) ** 0.5)  # of W − Z: 0, 0, 2.5, 1
    method.after_epoch(admm, masked, None, progress(0, epoch=1), {})
    assert (method.rho, method.updates) == (1.0, 1)
    assert method.z["1.weight"].tolist() == [[4.0, -3.0, 0.0, 0.0]]
    assert method.u["1.weight"].tolist() == [[0.0, 0.0, 2.5, 1.0]]
    method.after_epoch(admm, masked, None, progress(0, epoch=3), {})  # W + U: 4, -3, 5, 2
    assert method.z["1.weight"].tolist() == [[4.0, 0.0, 5.0, 0.0]]
    assert method.u["1.weight"].tolist() == [[0.0, -3.0, 0.0, 2.0]]


@pytest.mark.parametrize(("reference", "factor"), [(False, 1), (True, 3)])
def test_the_references_factor_is_an_option(reference, factor):
    method, masked, admm, _ = begun(rho=0.5, rho_growth=1.0, every=1, reference_factor=reference)
    for epoch in (0, 1):
        method.after_epoch(admm, masked, None, progress(0, epoch=epoch), {})
    distance = masked.weights["1.weight"] - method.z["1.weight"] + method.u["1.weight"]
    method.penalty(admm, masked, progress(0)).backward()
    gradient = masked.weights["1.weight"].grad
    torch.testing.assert_close(gradient, factor * 0.5 * distance.detach())


def test_nothing_is_masked_until_finetuning_and_then_the_largest_weights_are_kept():
    method, masked, _, finetune = begun()
    assert masked.kept == 4
    method.begin(finetune, masked)
    assert masked.masks["1.weight"].tolist() == [[True, True, False, False]]
    assert method.penalty(finetune, masked, progress(0)) is None


def test_state_goes_round():
    method, masked, admm, _ = begun(every=1)
    method.after_epoch(admm, masked, None, progress(0), {})
    other, _, _, _ = begun(every=1)
    other.load_state_dict(method.state_dict())
    assert (other.rho, other.updates) == (method.rho, 1)
    assert torch.equal(other.u["1.weight"], method.u["1.weight"])
    assert torch.equal(other.z["1.weight"], method.z["1.weight"])
