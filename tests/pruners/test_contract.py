"""Promises of every registered pruner."""

import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import allocations
from robustprune.testing.pruners import PRUNERS, begun, expected

DENSITIES = (0.05, 1.0)
QUICK = ("uniform", "global")
ALLOCATIONS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in allocations.names()
]


@pytest.fixture(params=pruners.names())
def name(request):
    return request.param


@pytest.mark.parametrize("promise", PRUNERS.promises, ids=lambda promise: promise.__name__)
def test_it_keeps_its_promises(name, promise):
    promise(pruners.create(name))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("density", DENSITIES)
def test_the_network_has_the_density_once_its_stages_have_begun(name, allocation, density):
    pruner = pruners.create(name, allocation=allocation)
    if allocation == "uniform_plus" and density < 1:  # its dense convolution alone is more
        with pytest.raises(UsageError, match="Ask for a higher density"):
            begun(pruner, density)
        return
    masked, _, _ = begun(pruner, density)
    assert masked.kept == expected(pruner, density)
    assert masked.kept == pytest.approx(density * 252, abs=2)
    assert masked.turnover == 0
    assert bool(masked.model(torch.rand(2, 2, 5, 5)).isfinite().all())


def test_it_is_documented(name):
    pruner = pruners.create(name)
    assert type(pruner).__doc__
    assert pruner.source
    assert pruner.cost
