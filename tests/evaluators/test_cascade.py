import pytest
import torch
from torch import nn

from robustprune.evaluators.cascade import Layer, bytes_per_image, layers_of, reach


def network():
    """Of 6x6 images: 2 channels of 3x3, 4 of 3x3, 5 neurons, 3 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 4, stride=2, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ).eval()


def test_layers_are_those_that_mix_their_inputs():
    assert layers_of(network(), torch.rand(1, 1, 6, 6)) == [
        Layer(inputs=36, outputs=18, channels=1, kernel=4, stride=2),
        Layer(inputs=18, outputs=36, channels=2, kernel=3, stride=1),
        Layer(inputs=36, outputs=5, channels=36, kernel=torch.inf, stride=1),
        Layer(inputs=5, outputs=3, channels=5, kernel=torch.inf, stride=1),
    ]


@pytest.mark.parametrize(
    ("layers", "entries"),
    [
        ([Layer(3072, 4096, 3, 4, 2)], 48),  # 4 x 4 x 3
        ([Layer(3072, 4096, 3, 4, 2), Layer(4096, 2048, 16, 4, 2)], 300),  # 10 x 10 x 3
        ([Layer(48, 64, 3, 4, 2), Layer(64, 2048, 16, 4, 2)], 64),  # no more than there are
        ([Layer(3072, 4096, 3, 4, 2), Layer(4096, 100, 4096, torch.inf, 1)], 4096),
    ],
)
def test_one_output_depends_on_so_many_entries(layers, entries):
    assert reach(layers) == entries


def test_the_estimate_by_hand():
    """Intervals 36 + 18 + 36 + 5; margins 2 x 36; CROWN: 36 rows of an 8 x 8 patch, cut to 36."""
    found = bytes_per_image(network(), torch.rand(7, 1, 6, 6), classes=3)
    entries = {name: size / 48 for name, size in found.items()}
    assert entries == {
        "ibp": 95,
        "crown_ibp": 95 + 72,
        "crown": 95 + 36 * 36,
        "alpha_crown": 95 + 36 * 36,
    }


def test_other_networks_are_estimated_by_their_input():
    found = bytes_per_image(nn.Flatten(), torch.rand(1, 1, 2, 5), classes=10)
    assert found["ibp"] == 48 * 10
    assert found["crown"] == found["crown_ibp"] == 48 * (10 + 90)


def test_logits_are_bounded_by_their_margins_only():
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 4))
    found = bytes_per_image(model, torch.rand(1, 1, 2, 5), classes=4)
    assert found["crown"] == found["crown_ibp"] == 48 * (10 + 3 * 10)


def test_nothing_stays_on_the_network():
    model = network()
    layers_of(model, torch.rand(1, 1, 6, 6))
    assert not any(module._forward_hooks for module in model.modules())
