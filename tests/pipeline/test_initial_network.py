from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.datasets import Splits
from robustprune.errors import UsageError
from robustprune.models import create_model
from robustprune.pipeline.initial_network import check_takes, initial_network
from robustprune.seeding import fork

from . import tiny

DATA = Splits(None, None, None, num_classes=10, channels=1, image_size=8)


def test_it_is_drawn_from_the_recipes_seed_and_nothing_else() -> None:
    networks = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(before)
        networks.append(initial_network(tiny.recipe({"seed": seed}), DATA).state_dict()["0.weight"])
    with fork(0, "dense", "init"):
        by_hand = create_model("cnn_digits", in_chans=1, image_size=8).state_dict()["0.weight"]
    assert torch.equal(networks[0], networks[1])
    assert torch.equal(networks[0], by_hand)
    assert not torch.equal(networks[0], networks[2])


def test_trying_it_changes_neither_the_network_nor_what_is_drawn_next() -> None:
    class Draws(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            random.random()
            return torch.rand(len(images), 10)

    norms = [nn.BatchNorm2d(10), nn.BatchNorm2d(10)]
    model = nn.Sequential(nn.Conv2d(1, 10, 3), *norms, nn.Dropout(), Draws())
    norms[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    random.seed(0)
    state, python = torch.get_rng_state(), random.getstate()
    check_takes(model, DATA, name="mine")
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


class Gives(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            RuntimeError("Kernel size\ncan't be"),
            r"does not take.*1×8×8 \(RuntimeError: Kernel size\)",
        ),
        (ZeroDivisionError(), r"\(ZeroDivisionError: ZeroDivisionError\).*Choose another model"),
        (torch.zeros(1, 9), r"gives \(1, 9\).*expected \(1, 10\)"),
        (torch.zeros(1, 10, 2, 2), r"gives \(1, 10, 2, 2\)"),
        ((torch.zeros(1, 10),), "gives tuple"),
    ],
)
def test_a_network_that_does_not_classify_the_images_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_takes(Gives(value), DATA, name="mine")


def test_more_logits_than_classes_are_fine() -> None:
    check_takes(Gives(torch.zeros(1, 11)), DATA, name="mine")


@pytest.mark.parametrize("name", ["test_vit", "edgenext_xx_small", "efficientvit_m0"])
def test_timms_models_for_large_images_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"model '{name}' does not take"):
        initial_network(tiny.recipe({"model": {"name": name}}), DATA)
