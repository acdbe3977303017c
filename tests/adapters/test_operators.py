"""Whatever a network is made of, its bounds are bounds or it is refused."""

import pytest
import torch
from torch import nn

from robustprune.adapters.bounds import METHODS, Bounds
from robustprune.errors import UsageError

from .exact import Exact
from .tiny import Residual, labels, norm

LINEAR = [method for method in METHODS if method != "ibp"]
AFFINE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
EPS = 0.1


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Branches(nn.Module):
    def __init__(self, join, *branches):
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x):
        return self.join([branch(x) for branch in self.branches])


def centre(layer, _, values):
    """Move a bias so that neurons are unstable: linear bounds of others go wrong nowhere."""
    if layer.bias is None:
        return values
    middle = values.mean([axis for axis in range(values.ndim) if axis != 1], keepdim=True)
    layer.bias -= middle.flatten()
    return values - middle


@torch.no_grad()
def with_head(shape, *layers, seed=0):
    """These layers, then the classifier that fits them."""
    torch.manual_seed(seed)
    body = nn.Sequential(*(layer() for layer in layers), nn.Flatten()).eval()
    affine = [layer for layer in body.modules() if isinstance(layer, AFFINE)]
    hooks = [layer.register_forward_hook(centre) for layer in affine]
    features = body(images(shape)).shape[1]
    for hook in hooks:
        hook.remove()
    return nn.Sequential(*body, nn.Linear(features, 3)).eval()


def images(shape):
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))


def conv(*sizes, **options):
    return lambda: nn.Conv2d(*sizes, **options)


def function(f):
    return lambda: Apply(f)


def joined(join, *branches):
    return lambda: Branches(join, *(branch() for branch in branches))


RELU, AVERAGE = nn.ReLU, lambda: nn.AvgPool2d(2)
SKIP = joined(sum, nn.Identity, conv(2, 2, 1))
RIGHT = {
    "groups": ((2, 3, 3), conv(2, 4, 2, groups=2), RELU, conv(4, 2, 2, groups=2), RELU),
    "depthwise": ((1, 3, 3), conv(1, 3, 2), RELU, conv(3, 3, 2, groups=3), RELU),
    "dilation": ((1, 4, 4), conv(1, 2, 2), RELU, conv(2, 2, 2, dilation=2), RELU),
    "dilation and padding": ((1, 3, 3), conv(1, 2, 3, dilation=2, padding=2), RELU, SKIP, RELU),
    "oblong kernels": (
        *((1, 4, 4), conv(1, 1, (3, 1), padding=(1, 0)), RELU, conv(1, 2, (1, 2), stride=2), RELU),
        *(conv(2, 1, (1, 3), padding=(0, 1)), RELU),
    ),
    "oblong strides": ((1, 5, 5), conv(1, 1, 2), RELU, conv(1, 2, 2, stride=(2, 1)), RELU),
    "oblong padding": ((1, 3, 3), conv(1, 2, 2), RELU, conv(2, 1, 2, padding=(1, 0)), RELU),
    "oblong images": (
        *((1, 7, 3), conv(1, 1, 3, stride=2, padding=1), RELU),
        *(conv(1, 2, 3, stride=2, padding=1), RELU, conv(2, 2, 2, padding=1), RELU),
    ),
    "strides that leave pixels over": (
        *((1, 5, 5), conv(1, 2, 2, stride=3), RELU, conv(2, 3, 2, padding=1), RELU),
    ),
    "circular padding": ((1, 3, 3), conv(1, 1, 3, padding=1, padding_mode="circular"), RELU),
    "average": ((1, 4, 4), conv(1, 1, 3, padding=1), RELU, AVERAGE, conv(1, 2, 2, padding=1), RELU),
    "average before ReLU": (
        (1, 4, 4),
        conv(1, 2, 3, padding=1),
        AVERAGE,
        RELU,
        conv(2, 2, 2),
        RELU,
    ),
    "average that leaves pixels over": (
        (1, 5, 5),
        conv(1, 1, 1),
        RELU,
        AVERAGE,
        conv(1, 2, 1),
        RELU,
    ),
    "oblong average": (
        *((1, 4, 2), lambda: nn.AvgPool2d((2, 1)), conv(1, 2, 2, padding=1), RELU),
        *(conv(2, 2, 2), RELU, conv(2, 2, 1), RELU),
    ),
    "mean": ((1, 3, 3), conv(1, 3, 2), RELU, function(lambda x: x.mean((2, 3)))),
    "norm first": ((1, 3, 3), lambda: norm(nn.BatchNorm2d(1)), RELU, conv(1, 2, 2), RELU),
    "norm of a vector": (
        *((1, 3, 3), nn.Flatten, lambda: nn.Linear(9, 5, bias=False)),
        *(lambda: norm(nn.BatchNorm1d(5)), RELU, lambda: nn.Linear(5, 4), RELU),
    ),
    "before the norm": (
        *((1, 3, 3), conv(1, 2, 2), SKIP, lambda: norm(nn.BatchNorm2d(2)), RELU, conv(2, 2, 2)),
    ),
    "residual vector": (
        *((1, 3, 3), nn.Flatten, lambda: nn.Linear(9, 5), RELU),
        *(lambda: Residual(nn.Linear(5, 5), nn.ReLU()), RELU, lambda: nn.Linear(5, 4), RELU),
    ),
    "difference": ((1, 3, 3), conv(1, 2, 2), RELU, joined(lambda b: b[0] - 2 * b[1], SKIP, RELU)),
    "concatenation": (
        *((1, 3, 3), conv(1, 2, 2), RELU, joined(lambda b: torch.cat(b, 1), SKIP, conv(2, 1, 1))),
        *(RELU, conv(3, 2, 2), RELU),
    ),
    "scalars": (
        (1, 3, 3),
        conv(1, 2, 2),
        RELU,
        function(lambda x: 1 - 2.5 * x),
        conv(2, 2, 1),
        RELU,
    ),
    "slice": ((1, 3, 3), conv(1, 3, 2), RELU, function(lambda x: x[:, 1:]), conv(2, 2, 2), RELU),
    "transposed": ((1, 2, 2), lambda: nn.ConvTranspose2d(1, 2, 2), RELU, conv(2, 1, 2), RELU),
    "permuted": ((1, 3, 3), conv(1, 2, 2), RELU, function(lambda x: x.permute(0, 2, 3, 1))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_no_bound_is_above_the_exact_margin(name):
    shape, *layers = RIGHT[name]
    model, x, y = with_head(shape, *layers), images(shape), labels()
    true = Exact(model, shape).margins(x, y, eps=EPS)
    graph = Bounds(model, x)
    for method in METHODS:
        found = graph.margins(model, x, y, eps=EPS, method=method, iterations=4)
        assert (found <= true + 1e-6).all(), method


SEARCHED = {
    "leaky ReLU": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "steep tanh": function(lambda x: torch.tanh(20 * x)),
    "gate": function(lambda x: x * torch.sigmoid(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_no_bound_is_above_what_a_search_finds(name):
    model = with_head((1, 2, 2), nn.Flatten, lambda: nn.Linear(4, 6), SEARCHED[name])
    x, y = images((1, 2, 2)), labels()
    low, high = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
    shares = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    shares[:10_000] = shares[:10_000].round()
    with torch.no_grad():
        logits = model((low + shares.view(-1, 1, 1, 2, 2) * (high - low)).flatten(0, 1))
    logits = logits.view(len(shares), 3, 3)
    margins = logits.gather(2, y.expand(len(shares), 3)[..., None]) - logits
    true = margins[:, torch.arange(3) != y[:, None]].view(-1, 3, 2).amin(0)
    graph = Bounds(model, x)
    for method in METHODS:
        found = graph.margins(model, x, y, eps=EPS, method=method)
        assert (found <= true + 1e-6).all(), method
        assert (found > true - 5).all(), method


WRONG = {
    "overlapping average": ((1, 4, 4), conv(1, 2, 1), RELU, lambda: nn.AvgPool2d(2, stride=1)),
    "padded average": ((1, 4, 4), conv(1, 2, 1), RELU, lambda: nn.AvgPool2d(2, padding=1)),
    "average of an oblong image": ((1, 5, 4), AVERAGE, conv(1, 2, 1), RELU),
    "-x": ((1, 3, 3), conv(1, 2, 2), function(lambda x: -x), RELU),
}
"""The library takes them, and has given bounds above the exact margin for most."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_known_to_be_right_is_refused_but_for_intervals(name):
    shape, *layers = WRONG[name]
    model, x, y = with_head(shape, *layers), images(shape), labels()
    graph = Bounds(model, x)
    for method in LINEAR:
        with pytest.raises(UsageError, match=r"auto-LiRPA has no \S+ bound.*Use the bound 'ibp'"):
            graph.margins(model, x, y, eps=EPS, method=method)
    assert graph.margins(model, x, y, eps=EPS, method="ibp").shape == (3, 2)


def test_the_layer_that_is_wrong_is_named():
    model, x = with_head(*WRONG["overlapping average"]), images((1, 4, 4))
    with pytest.raises(UsageError, match=r"layer '2 \(AvgPool2d\)' .*windows must tile the image"):
        Bounds(model, x).margins(model, x, labels(), eps=EPS, method="crown")


@pytest.mark.parametrize("slope", [-0.3, 2.0])
def test_steep_leaky_relus_are_refused_at_once(slope):
    model = with_head((1, 3, 3), conv(1, 2, 2), lambda: nn.LeakyReLU(slope))
    with pytest.raises(UsageError, match=rf"layer '1 \(LeakyReLU\)'.*slope {slope:g} is not in"):
        Bounds(model, images((1, 3, 3)))
