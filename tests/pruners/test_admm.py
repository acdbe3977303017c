import pytest
import torch

from robustprune import objectives, pruners
from robustprune.errors import UsageError
from tests.pruners.nets import at_work, linear, progress, sections


def begun(name="radmm", **options):
    method, masked, stages = at_work(name, linear([4.0, -3.0, 2.0, 1.0]), 0.5, **options)
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


def test_two_cycles_of_admm_by_hand():
    """Steps of SGD on the penalty alone: W ← W − lr·ρ·(W − Z + U); ρ stays."""
    method, masked, admm, _ = begun("admm", rho=1.0, every=1)
    (weight,) = masked.weights.values()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    seen = []
    for epoch in (0, 1):
        optimizer.zero_grad()
        method.penalty(admm, masked, progress(0, epoch=epoch)).backward()
        optimizer.step()
        method.after_epoch(admm, masked, optimizer, progress(0, epoch=epoch), {})
        (z,), (u,) = method.z.values(), method.u.values()
        seen.append((weight.tolist()[0], z.tolist()[0], u.tolist()[0]))
    # Z = 4, -3, 0, 0 and U = 0: the two others are halved, and U takes them up
    assert seen[0] == ([4.0, -3.0, 1.0, 0.5], [4.0, -3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5])
    # W − Z + U = 0, 0, 2, 1: they reach 0, and U stays
    assert seen[1] == ([4.0, -3.0, 0.0, 0.0], [4.0, -3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5])
    assert method.rho == 1.0


def test_rho_grows_no_further_than_asked():
    method, masked, admm, _ = begun("admm", rho=0.5, rho_growth=3.0, rho_most=1.0, every=1)
    method.after_epoch(admm, masked, None, progress(0, epoch=0), {})
    assert method.rho == 1.0


def trained(**options):
    return pruners.create("admm", **options).stages(0.5, sections())


def test_the_learning_rate_goes_by_cycles_as_long_as_those_of_admm():
    admm, finetune = trained(every=3)
    rates = [admm.options.schedule(progress(0, epoch=epoch)) for epoch in range(6)]
    assert rates == pytest.approx([1, 0.1, 0.01, 1, 0.1, 0.01])
    assert finetune.options.schedule.registered_name == "cosine"


def test_a_schedule_of_ones_own_wins():
    assert trained(cycle=False)[0].options.schedule.registered_name == "cosine"
    assert trained(admm={"schedule": "constant"})[0].options.schedule.registered_name == "constant"


@pytest.mark.parametrize(("every", "refused"), [(3, False), (4, True)])
def test_a_stage_that_ends_before_the_first_update_is_refused(every, refused):
    pruner, benign = pruners.create("admm", every=every), objectives.create("benign")
    admm, finetune = pruner.stages(0.5, sections())  # three epochs each
    said = list(pruner.problems(admm, benign))
    assert len(said) == refused
    assert all("updated after 4 epochs, and stage 'admm' has 3: set every to 1" in s for s in said)
    assert not list(pruner.problems(finetune, benign))


def test_it_goes_by_the_section_finetune():
    with pytest.raises(UsageError, match=r"finetune\.epochs"):
        pruners.create("admm").stages(0.5, {})


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
    assert (method.state_dict()["z"], method.state_dict()["u"]) == ({}, {})  # not saved on and on


def test_state_goes_round():
    method, masked, admm, _ = begun(every=1)
    method.after_epoch(admm, masked, None, progress(0), {})
    other, _, _, _ = begun(every=1)
    other.load_state_dict(method.state_dict())
    assert (other.rho, other.updates) == (method.rho, 1)
    assert torch.equal(other.u["1.weight"], method.u["1.weight"])
    assert torch.equal(other.z["1.weight"], method.z["1.weight"])
