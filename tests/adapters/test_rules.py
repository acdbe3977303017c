"""What an operator is let through with, and what happens at the edges of where it is right."""

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from robustprune.adapters.bounds import METHODS, Bounds, certified
from robustprune.adapters.rules import RULES, Rule
from robustprune.adapters.unbounded import OutsideDomainError
from robustprune.errors import UsageError
from robustprune.objectives import create
from robustprune.types import Progress

from .exact import Exact
from .test_operators import EPS, RELU, Apply, conv, function, images, with_head
from .tiny import labels

LINEAR = [method for method in METHODS if method != "ibp"]


@pytest.mark.slow
def test_far_out_s_curves_have_no_linear_bounds():
    """The library draws its lines on [-500, 500] whatever the interval."""
    model = with_head((1, 2, 2), function(lambda x: torch.tanh(2000 * x)))
    x = torch.stack([torch.full((1, 2, 2), shade) for shade in (0.9, 0.0, 0.5)])
    graph = Bounds(model, x)
    assert graph.margins(model, x, labels(), eps=0.01, method="ibp").isfinite().all()
    for method in LINEAR:
        with pytest.raises(OutsideDomainError, match=r"all of the ball.*from -400 to 400") as error:
            graph.margins(model, x, labels(), eps=0.01, method=method)
        assert error.value.images.tolist() == [True, False, True]
    near = x[1:2], labels()[1:2]
    assert graph.margins(model, *near, eps=0.01, method="crown").isfinite().all()


@pytest.mark.slow
def test_training_refuses_what_certificates_refuse():
    model = with_head((1, 2, 2), function(lambda x: torch.tanh(2000 * x)))
    objective = create("mixtrain", eps=0.3, probability=1.0)
    with pytest.raises(UsageError, match="values from -400 to 400"):
        objective(model, images((1, 2, 2)), labels(), Progress(stage="prune"))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.addmm(self.b, x, self.w.t(), alpha=-2, beta=3)


REFUSED = {
    "an index twice": ((1, 3, 3), function(lambda x: x[:, :, [0, 0, 1]]), "picked once"),
    "scaled products": ((4,), Scaled, r"layer '0 \(Scaled\)'.*must not be scaled"),
    "axes out of order": ((1, 3, 3), function(lambda x: x.mean((3, 2))), "axes must be in their"),
    "roots as denominators": (
        *(
            (1, 2, 2),
            lambda: Constants(lambda x, k: (x + 1) / k.sqrt(), torch.full((2,), 4.0), False),
        ),
        "nor be a square root",
    ),
    "denominators": ((1, 3, 3), function(lambda x: 1 / (x + 1)), "not known|denominator must not"),
    "powers": ((1, 3, 3), function(lambda x: (x + 1) ** 2), "bounds of Pow are not known"),
    "sines": ((1, 3, 3), function(torch.sin), "bounds of Sin are not known"),
    "a ceiling": ((1, 3, 3), lambda: nn.MaxPool2d(2, ceil_mode=True), "no IBP bound"),
    "gaps in windows": ((1, 3, 3), lambda: nn.MaxPool2d(2, 1, dilation=2), "no IBP bound"),
    "tangents": ((1, 3, 3), function(torch.tan), "bounds of Tan are not known"),
    "the batch": ((1, 3, 3), function(lambda x: x - x.mean(0, keepdim=True)), "axis of the images"),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_attributes_that_were_never_right_are_refused_for_all_bounds(name):
    shape, layer, words = REFUSED[name]
    with pytest.raises(UsageError, match=words):
        Bounds(with_head(shape, layer), images(shape))


@pytest.mark.parametrize("padding", [(1, 2), (2, 1)])
def test_unequal_dilations_have_intervals_only(padding):
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 2, padding=padding, dilation=padding)
    first = (nn.AdaptiveAvgPool2d(1), layer)
    features = nn.Sequential(*first)(images((1, 2, 2))).flatten(1).shape[1]
    model = nn.Sequential(*first, nn.Flatten(), nn.Linear(features, 3)).eval()
    x, y = images((1, 2, 2)), labels()
    graph, true = Bounds(model, x), Exact(model, (1, 2, 2)).margins(x, y, eps=EPS)
    assert (graph.margins(model, x, y, eps=EPS, method="ibp") <= true + 1e-6).all()
    for method in LINEAR:
        with pytest.raises(UsageError, match=r"layer '1 \(Conv2d\)'.*dilations must be equal"):
            graph.margins(model, x, y, eps=EPS, method=method)


SIZES = [(), (2,), (3, 1, 1), (1, 1, 2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_arithmetic_with_constants_is_exact_whatever_their_axes(size, buffers):
    """Also where they are computed from others, and make the image larger."""

    def f(x, k):
        return (k.unsqueeze(0).squeeze(0) - x) * k / (k * k + 0.1) + k.abs()

    torch.manual_seed(1)
    k = torch.randn(size) + 2
    wide = lambda: Apply(lambda x: x.mean(1, keepdim=True))  # noqa: E731
    for before in (nn.Identity, wide):
        model = with_head((1, 3, 3), conv(1, 3, 2), RELU, before, lambda: Constants(f, k, buffers))
        x, y = images((1, 3, 3)), labels()
        true = Exact(model, (1, 3, 3)).margins(x, y, eps=EPS)
        graph = Bounds(model, x)
        for method in METHODS:
            found = graph.margins(model, x, y, eps=EPS, method=method, iterations=2)
            assert (found <= true + 1e-5).all(), method
            assert method == "ibp" or (found > true - 2).all(), method


class Constants(nn.Module):
    def __init__(self, f, k, buffers):
        super().__init__()
        self.f = f
        self.register_buffer("k", k) if buffers else setattr(self, "k", nn.Parameter(k))

    def forward(self, x):
        return self.f(x, self.k)


def test_norms_without_an_affine_map_have_linear_bounds():
    layers = (conv(1, 2, 2), lambda: nn.BatchNorm2d(2, affine=False), RELU, nn.Flatten)
    after = (lambda: nn.Linear(8, 4), lambda: nn.BatchNorm1d(4, affine=False), RELU)
    model, x, y = with_head((1, 3, 3), *layers, *after), images((1, 3, 3)), labels()
    graph = Bounds(model, x)
    for layer in (model[1], model[5]):  # what is handed over counts
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.3, 2)
    true = Exact(model, (1, 3, 3)).margins(x, y, eps=EPS)
    for method in METHODS:
        found = graph.margins(model, x, y, eps=EPS, method=method, iterations=2)
        assert (found <= true + 1e-6).all(), method
        assert method == "ibp" or (found > true - 1).all(), method
    assert model[1].weight is None


def test_weights_that_are_computed_have_intervals_of_their_present_values():
    """The library makes a square of a product of two parameters."""
    torch.manual_seed(0)
    layer = torch.nn.utils.prune.random_unstructured(nn.Conv2d(1, 2, 2), "weight", 0.4)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    x, y = images((1, 3, 3)), labels()
    graph = Bounds(model, x)
    with torch.no_grad():
        layer.weight_orig.mul_(-2)
        model(x)
    plain = nn.Sequential(nn.Conv2d(1, 2, 2), *model[1:])
    plain[0].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    expected = Bounds(plain, x).margins(plain, x, y, eps=EPS, method="ibp")
    found = graph.margins(model, x, y, eps=EPS, method="ibp")
    torch.testing.assert_close(found, expected)
    with pytest.raises(UsageError, match=r"layer '0 \(Conv2d\)'.*computed from other tensors"):
        graph.margins(model, x, y, eps=EPS, method="crown")


def test_an_attribute_that_the_table_does_not_know_is_refused(monkeypatch):
    model, x = with_head((1, 3, 3), conv(1, 2, 2), RELU), images((1, 3, 3))
    monkeypatch.setitem(RULES, "Conv", Rule(frozenset({"pads"})))
    expected = r"layer '0 \(Conv2d\)'.*bounds of Conv with 'dilations' are not known"
    with pytest.raises(UsageError, match=expected):
        Bounds(model, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype):
    model, x = with_head((1, 3, 3), conv(1, 2, 2), RELU).to(dtype), images((1, 3, 3)).to(dtype)
    with pytest.raises(UsageError, match=r"has torch\..*use model\.float\(\)"):
        Bounds(model, x)


def test_double_precision_has_bounds():
    model, x = with_head((1, 3, 3), conv(1, 2, 2), RELU).double(), images((1, 3, 3)).double()
    true = Exact(model, (1, 3, 3)).margins(x, labels(), eps=EPS)
    for method in ("ibp", "crown_ibp", "crown"):
        found = Bounds(model, x).margins(model, x, labels(), eps=EPS, method=method)
        assert (found <= true + 1e-9).all(), method


def test_infinite_margins_certify_nothing():
    assert not certified(torch.tensor([[1.0, torch.inf]]), torch.ones(1, 3)).item()


def test_small_logits_are_certified_above_rounding_only():
    """They may be what is left of large numbers."""
    margins = torch.tensor([[1e-9, 1e-9], [1e-4, 1e-4]])
    assert certified(margins, 1e-8 * torch.ones(2, 3)).tolist() == [False, True]
