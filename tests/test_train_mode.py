from __future__ import annotations

import pytest
from torch import nn

from robustprune.train_mode import eval_mode


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_is_in_eval_mode_and_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1), nn.Dropout()))
    model[1][0].eval()
    before = modes(model)
    assert True in before
    assert False in before
    with eval_mode(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_modes_are_restored_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(ZeroDivisionError), eval_mode(model):
        raise ZeroDivisionError
    assert all(modes(model))


def test_a_network_in_eval_mode_stays_so() -> None:
    model = nn.Sequential(nn.Dropout()).eval()
    with eval_mode(model), eval_mode(model):
        pass
    assert not any(modes(model))


def test_a_network_that_refuses_to_train_gets_back_what_it_was_given() -> None:
    class Refusing(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    model = nn.Sequential(Refusing())
    model[0].training = True
    with eval_mode(model):
        assert not model[0].training
    assert model[0].training
