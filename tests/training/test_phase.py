import pytest
from torch import nn

from robustprune.masking import attach
from robustprune.training.phase import norm_layers, score_tensors, weight_tensors


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


@pytest.mark.parametrize("norms", [True, False])
def test_the_prune_phase_trains_scores_and_norms_if_wanted(norms):
    masked = attach(network(), density=0.5)
    expected = SCORES + (AFFINE if norms else [])
    assert names(masked.model, score_tensors(masked, norms=norms)) == expected


def test_the_finetune_phase_trains_everything_but_the_scores():
    masked = attach(network(), density=0.5)
    trained = names(masked.model, weight_tensors(masked))
    everything = [name for name, _ in masked.model.named_parameters()]
    assert trained == [name for name in everything if name not in SCORES]
    assert len(trained) == len(everything) - 2
