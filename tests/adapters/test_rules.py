"""What an operator is let through with, and what happens at the edges of where it is right."""

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from robustprune.adapters import rules
from robustprune.adapters.bounds import METHODS, Bounds, certified
from robustprune.adapters.unbounded import OutsideDomainError
from robustprune.errors import UsageError
from robustprune.evaluators.cascade import LEFT_OUT, Cascade
from robustprune.objectives import create
from robustprune.types import Progress

from .exact import Exact
from .test_operators import EPS, RELU, Apply, conv, function, images, with_head
from .tiny import labels

LINEAR = [method for method in METHODS if method != "ibp"]


class Quotient(nn.Module):
    """``b(relu(a(x)) / (h(x) + floor))``, and the bias of h."""

    def __init__(self, *, positive=True, floor=0.1, bias=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h, self.b = nn.Conv2d(1, 2, 2), nn.Conv2d(1, 2, 2), nn.Linear(8, 3)
        self.positive, self.floor = positive, floor
        nn.init.constant_(self.h.bias, bias)

    def forward(self, x):
        below = self.h(x).relu() if self.positive else self.h(x)
        return self.b((self.a(x).relu() / (below.sum(1, keepdim=True) + self.floor)).flatten(1))


def searched(model, x, y, eps):
    """The least margins of corners and points inside, ``(n, 2)``."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    shares = torch.rand(20_000, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    shares[:10_000] = shares[:10_000].round()
    with torch.no_grad():
        logits = model((low + shares[:, None] * (high - low)).flatten(0, 1))
    logits = logits.view(len(shares), len(x), 3)
    margins = logits.gather(2, y.expand(len(shares), -1)[..., None]) - logits
    return margins[:, torch.arange(3) != y[:, None]].view(len(shares), len(x), 2).amin(0)


@pytest.mark.parametrize("eps", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_quotients_of_what_stays_positive_have_bounds(method, eps):
    model, x, y = Quotient().eval(), images((1, 3, 3)), labels()
    found = Bounds(model, x).margins(model, x, y, eps=eps, method=method, iterations=4)
    assert (found <= searched(model, x, y, eps) + 1e-5).all()
    assert found.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_quotients_of_what_may_be_zero_are_refused_by_name(method):
    model, x = (
        nn.Sequential(nn.Identity(), Quotient(positive=False, bias=-1.0)).eval(),
        images((1, 3, 3)),
    )
    graph = Bounds(model, x)
    expected = r"a function in layer '1 \(Quotient\)'.*in all of the ball.* denominator of at least"
    with pytest.raises(OutsideDomainError, match=expected) as error:
        graph.margins(model, x, labels(), eps=0.3, method=method)
    assert error.value.images.shape == (3,)


def test_only_the_images_whose_intervals_leave_the_domain_stay_undecided():
    model = Quotient(positive=False, bias=-0.3).eval()
    model.h.weight.data.abs_()
    x = torch.cat([torch.full((2, 1, 3, 3), 0.9), torch.full((1, 1, 3, 3), 0.0)])
    y = model(x).argmax(1)
    cascade = Cascade(["ibp", "crown"], eps=0.001)
    assert cascade.settle(model, x, y).tolist() == [0, 0, LEFT_OUT]
    omissions = cascade.omissions()
    assert sorted((o.what, n) for o, n in omissions.items()) == [("crown", 1), ("ibp", 1)]
    assert all("denominator" in omission.why for omission in omissions)


@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "mixtrain"])
def test_training_refuses_what_certificates_refuse(name):
    model, x = Quotient(positive=False, bias=-1.0), images((1, 3, 3))
    objective = create(name, eps=0.3, **({"probability": 1.0} if name == "mixtrain" else {}))
    with pytest.raises(UsageError, match="denominator of at least"):
        objective(model, x, labels(), Progress(stage="prune"))


EDGES = {
    "reciprocal": (torch.reciprocal, 0.05, (-0.5, 0.0), METHODS),
    "root": (torch.sqrt, 0.0, (-0.5, -0.1), ["ibp"]),
    "logarithm": (torch.log, 0.05, (-0.5, 0.0), ["ibp"]),
    "exponential": (torch.exp, 0.0, (90.0, 1000.0), ["ibp"]),
    "tanh": (torch.tanh, 300.0, (), METHODS),
    "square": (lambda x: x**2, -0.3, (), METHODS),
    "cube": (lambda x: x**3, -0.3, (), ["ibp"]),
}
"""Functions, what may be added to a ReLU's outcome before them, what not, and their bounds."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EDGES)
def test_domains_are_asked_for_where_bounds_are_computed(name, method):
    f, inside, outside, methods = EDGES[name]
    x, y = images((1, 2, 2)), labels()
    for offset in (inside, *outside):
        layers = (nn.Flatten, lambda: nn.Linear(4, 4), RELU, function(lambda x, o=offset: f(x + o)))
        torch.manual_seed(0)
        model = nn.Sequential(*(layer() for layer in layers), nn.Linear(4, 3)).eval()
        if offset == inside and method in methods:
            found = Bounds(model, x).margins(model, x, y, eps=0.2, method=method, iterations=4)
            assert (found <= searched(model, x, y, 0.2) + 1e-4).all()
            continue
        with pytest.raises(UsageError):
            Bounds(model, x).margins(model, x, y, eps=0.2, method=method)


def test_far_out_s_curves_have_no_linear_bounds():
    """The library draws its lines on [-500, 500] whatever the interval."""
    x = images((1, 2, 2))
    model = with_head(
        (1, 2, 2), nn.Flatten, lambda: nn.Linear(4, 4), function(lambda x: torch.tanh(2000 * x))
    )
    graph = Bounds(model, x)
    assert graph.margins(model, x, labels(), eps=0.3, method="ibp").isfinite().all()
    with pytest.raises(OutsideDomainError, match="values from -400 to 400"):
        graph.margins(model, x, labels(), eps=0.3, method="crown")


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
        *((1, 2, 2), function(lambda x: (x + 1) / (x.pow(2).sum(1, True) + 1).sqrt())),
        "division by a square root",
    ),
    "negative powers": ((1, 3, 3), function(lambda x: (x + 1) ** -1), "exponent must be"),
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


SIZES = [(), (1,), (2,), (2, 2), (3, 1, 1), (3, 2, 2), (1, 3, 1, 1), (1, 1, 2, 2)]


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


@pytest.mark.parametrize("what", ["operator", "attribute"])
def test_what_the_table_does_not_know_is_refused(what, monkeypatch):
    model, x = with_head((1, 3, 3), conv(1, 2, 2), RELU), images((1, 3, 3))
    if what == "operator":
        monkeypatch.delitem(rules.RULES, "Relu")
        expected = r"layer '1 \(ReLU\)'.*bounds of Relu are not known"
    else:
        monkeypatch.setitem(rules.RULES, "Conv", rules.Rule(frozenset({"pads"})))
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
