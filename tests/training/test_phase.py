import pytest
from torch import nn

from robustprune.masking import attach
from robustprune.training import optimizers
from robustprune.training.phase import norm_layers, norm_tensors, weight_tensors
from tests.training import toys


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 2)),
        nn.BatchNorm1d(2, affine=False),
    )


def names(model: nn.Module, tensors: list[nn.Parameter]) -> list[str]:
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return [own[id(tensor)] for tensor in tensors]


SCORES = ["0.parametrizations.weight.0.scores", "5.2.parametrizations.weight.0.scores"]
AFFINE = [f"{layer}.{part}" for layer in ("1", "2", "3", "5.1") for part in ("weight", "bias")]


def test_norm_layers_of_every_kind_are_found():
    model = network()
    assert norm_layers(model) == [model[1], model[2], model[3], model[5][1], model[6]]


def test_scores_and_norm_tensors_are_those_of_the_network():
    masked = attach(network(), density=0.5)
    assert names(masked.model, masked.score_parameters()) == SCORES
    assert names(masked.model, norm_tensors(masked.model)) == AFFINE


@pytest.mark.parametrize(("norm_lr", "rates"), [(None, [50, 50]), (0.1, [50, 0.1])])
def test_norm_layers_can_have_a_rate_of_their_own(norm_lr, rates):
    model = network()
    masked = attach(model, density=0.5)
    phase = toys.prune_phase(masked, norm_lr=norm_lr, optimizer=optimizers.create("sgd", lr=50))
    groups = phase.build_optimizer().param_groups
    assert [group["lr"] for group in groups] == rates
    assert [names(model, group["params"]) for group in groups] == [SCORES, AFFINE]
    assert names(model, phase.moving()) == SCORES + AFFINE


def test_the_finetune_phase_trains_everything_but_the_scores():
    masked = attach(network(), density=0.5)
    trained = names(masked.model, weight_tensors(masked))
    everything = [name for name, _ in masked.model.named_parameters()]
    assert trained == [name for name in everything if name not in SCORES]
    assert len(trained) == len(everything) - 2
