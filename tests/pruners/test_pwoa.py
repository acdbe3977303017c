import pytest

from robustprune import pruners
from tests.pruners.nets import at_work, linear, progress, sections


def staged(**options):
    admm, finetune = pruners.create("pwoa", **options).stages(0.5, sections())
    return admm.options, finetune.options


def test_both_stages_distil_and_the_bottleneck_is_in_the_second():
    admm, finetune = staged()
    assert {options.objective.registered_name for options in (admm, finetune)} == {"pwoa"}
    assert (admm.objective.lambda_x, admm.objective.lambda_y) == (0, 0)
    assert (finetune.objective.lambda_x, finetune.objective.lambda_y) == (2e-5, 1e-4)
    assert admm.objective.needs == ("dense",)


def test_a_stage_keeps_the_objective_that_it_names_and_other_changes():
    admm, finetune = staged(admm={"epochs": 9}, finetune={"objective": "benign"})
    assert admm.epochs == 9
    assert admm.objective.registered_name == "pwoa"
    assert admm.schedule.epochs == 3
    assert finetune.objective.registered_name == "benign"


def test_rho_grows_to_one_in_updates_every_three_epochs():
    method, masked, (admm, _) = at_work("pwoa", linear([4.0, -3.0, 2.0, 1.0]), 0.5)
    method.begin(admm, masked)
    rhos = []
    for epoch in range(60):
        method.after_epoch(admm, masked, None, progress(0, epoch=epoch), {})
        rhos.append(method.rho)
    assert rhos[1] == 0.01
    assert rhos[2] == rhos[4] == pytest.approx(0.0135)
    assert rhos[5] == pytest.approx(0.0135 * 1.35)
    assert rhos[-1] == 1.0
