import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from tests.pruners.nets import context, network, sections

OTHERS = {"0.weight": torch.rand(4, 2, 3, 3) < 0.5, "3.weight": torch.rand(5, 36) < 0.5}


@pytest.mark.parametrize("name", ["scratch_e", "scratch_b"])
def test_the_mask_is_the_others_and_weights_are_those_given(name):
    pruner = pruners.create(name, mask="mine")
    assert pruner.needs() == ("fresh", "mask:mine")
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    masked = attach(model)
    method = pruner.method(context(pruner, checkpoints={"mask:mine": OTHERS}))
    (stage,) = pruner.stages(0.1, sections())
    method.begin(stage, masked)
    assert all(torch.equal(mask, OTHERS[name]) for name, mask in masked.masks.items())
    assert all(torch.equal(weight, before[n]) for n, weight in masked.weights.items())
    assert pruner.stands_still(stage.name)


def test_layers_that_it_excludes_or_that_were_not_masked_stay_dense():
    pruner = pruners.create("scratch_e", exclude=["3"])
    masked = attach(network(), exclude=pruner.exclude)
    given = context(pruner, checkpoints={"mask:hydra": OTHERS})
    pruner.method(given).begin(pruner.stages(0.1, sections())[0], masked)
    assert torch.equal(masked.masks["0.weight"], OTHERS["0.weight"])

    masked = attach(network())
    given = context(pruner, checkpoints={"mask:hydra": {"3.weight": OTHERS["3.weight"]}})
    pruner.method(given).begin(pruner.stages(0.1, sections())[0], masked)
    assert masked.masks["0.weight"].all()


@pytest.mark.parametrize(
    ("name", "options", "density", "epochs"),
    [
        ("scratch_e", {}, 0.1, 5),
        ("scratch_b", {}, 1.0, 5),
        ("scratch_b", {}, 0.8, 6),  # 6.25
        ("scratch_b", {}, 0.5, 10),
        ("scratch_b", {}, 0.1, 10),
        ("scratch_b", {"at_most": 4.0}, 0.5, 10),
        ("scratch_b", {"at_most": 4.0}, 0.1, 20),
        ("scratch_b", {"at_most": 1.0}, 0.1, 5),
        ("scratch_b", {"train": {"epochs": 7}}, 0.1, 14),
    ],
)
def test_epochs_are_those_of_pretraining_or_cost_as_much(name, options, density, epochs):
    (stage,) = pruners.create(name, **options).stages(density, sections())
    assert (stage.name, stage.start, stage.options.epochs) == ("train", 0, epochs)
    assert stage.options.optimizer.lr == 0.1


def test_without_pretraining_there_is_nothing_to_go_by():
    with pytest.raises(UsageError, match="'pretrain'"):
        pruners.create("scratch_b").stages(0.1, {})
