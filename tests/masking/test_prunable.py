"""Which networks can be masked exactly; the others are refused before anything changes."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from robustprune.errors import UsageError
from robustprune.masking import attach, prunable_layers
from tests import masks


class Tied(nn.Module):
    """Two convolutions with one weight, (8, 8, 3, 3), before a linear layer: 576 + 16 weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))


def test_layers_that_share_a_weight_share_its_mask():
    model = Tied()
    assert list(prunable_layers(model)) == ["first", "head"]
    whole = masks.learning(model, 0.25)
    assert list(whole.masks) == ["first.weight", "head.weight"]
    assert (whole.prunable, whole.kept) == (592, 148)
    whole.add_scores({name: torch.randn_like(score) for name, score in whole.scores.items()})
    masks.renew(whole, 0.25)
    assert whole.turnover > 0
    assert torch.equal(model.first.weight, model.second.weight)
    assert whole.kept == 148


def test_baking_a_shared_weight_leaves_what_the_network_computed_with():
    model, images = Tied(), torch.rand(2, 8, 4, 4)
    whole = masks.pruned(model, 0.25)
    before = model(images)
    baked = whole.bake()
    assert torch.equal(model(images), before)
    assert model.first.weight is model.second.weight
    assert int(model.first.weight.count_nonzero()) == int(baked["first.weight"].sum()) == 144


def test_one_layer_at_two_places_is_masked_once():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    whole = masks.pruned(model, 0.5)
    assert whole.prunable == 16
    assert (whole.bake()["0.weight"] == (model[2].weight != 0)).all()


def test_gradients_of_a_shared_weight_are_those_of_one_weight():
    model, images, labels = Tied(), torch.rand(2, 8, 4, 4), torch.tensor([0, 1])
    whole = masks.pruned(model, 0.25)
    keep = whole.masks["first.weight"]
    plain = copy.deepcopy(model)
    by_hand = {n: p.detach().clone().requires_grad_() for n, p in Tied().named_parameters()}
    masked = torch.where(keep, by_hand["first.weight"], 0.0)
    hidden = F.conv2d(images, masked, by_hand["first.bias"], padding=1).relu()
    hidden = F.conv2d(hidden, masked, by_hand["second.bias"], padding=1).relu()
    head = torch.where(whole.masks["head.weight"], by_hand["head.weight"], 0.0)
    loss = F.cross_entropy(F.linear(hidden.mean((2, 3)), head, by_hand["head.bias"]), labels)
    loss.backward()
    with whole.cached():
        F.cross_entropy(model(images), labels).backward()
    mine = whole.weights["first.weight"].grad
    torch.testing.assert_close(mine, by_hand["first.weight"].grad)
    assert plain.first.parametrizations.weight[0] is plain.second.parametrizations.weight[0]


class Tied2Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.words.weight


class Alias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.again = self.head.weight


class View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(4, 5), nn.Linear(5, 4)
        self.tail.weight = nn.Parameter(self.head.weight.data.t())


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.register_buffer("kept", self.head.weight.data)


@pytest.mark.parametrize(
    ("model", "other"),
    [(Tied2Embedding(), "words"), (Alias(), "again"), (View(), "tail"), (Buffered(), "kept")],
    ids=lambda value: type(value).__name__,
)
def test_a_weight_that_something_else_computes_with_is_refused(model, other):
    with pytest.raises(UsageError, match=f"layer 'head' cannot be masked: .*'{other}"):
        attach(model)
    assert not parametrize.is_parametrized(model.head)


class Centred(nn.Conv2d):
    """Linear in its weight, and a zero in it is none in what it multiplies by."""

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight - self.weight.mean(), self.bias)


class ByMatrix(nn.Linear):
    """Multiplies as it should, in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT + self.bias


class Doubled(nn.Linear):
    """Scales its weight: zeros stay zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight, self.bias)


class Opaque(nn.Linear):
    """Multiplies in a way that cannot be followed."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * (self.weight - 1)).sum(2)


def hooked() -> nn.Conv2d:
    layer = nn.Conv2d(2, 3, 3)

    def centre(module: nn.Conv2d, inputs: object) -> None:
        module.weight.data -= module.weight.data.mean()

    layer.register_forward_pre_hook(centre)
    return layer


def pruned() -> nn.Conv2d:
    layer = nn.Conv2d(2, 3, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (StdConv2d(2, 3, 3), "changes its weight"),
        (ScaledStdConv2d(2, 3, 3), "changes its weight"),
        (Centred(2, 3, 3), "changes its weight"),
        (Opaque(4, 3), "cannot be followed|can be followed"),
        (torch.nn.utils.weight_norm(nn.Conv2d(2, 3, 3)), "remove_weight_norm"),
        (torch.nn.utils.spectral_norm(nn.Linear(4, 3)), "remove_spectral_norm"),
        (parametrizations.weight_norm(nn.Linear(4, 3)), "_WeightNorm.*remove_parametrizations"),
        (parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), "_SpectralNorm"),
        (parametrizations.orthogonal(nn.Linear(4, 3)), "_Orthogonal"),
        (pruned(), r"prune\.remove"),
        (nn.LazyConv2d(3, 3), "Pass a batch"),
        (nn.LazyLinear(3), "Pass a batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_masked_exactly_is_refused_by_name_and_nothing_is_changed(layer, reason):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), layer)
    with pytest.raises(UsageError, match=rf"layer '1' \(\w+\) cannot be masked: .*({reason})"):
        attach(model)
    assert not parametrize.is_parametrized(model[0])


def test_all_that_is_wrong_is_named_at_once():
    model = nn.Sequential(StdConv2d(2, 3, 3), nn.ReLU(), StdConv2d(3, 3, 3))
    with pytest.raises(UsageError, match=r"layer '0'(?s:.*)layer '2'"):
        attach(model)


@pytest.mark.parametrize(
    "layer",
    [Conv2dSame(2, 3, 3, stride=2), ByMatrix(4, 3), Doubled(4, 3), nn.Conv2d(4, 4, 3, groups=4)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_a_forward_of_their_own_are_masked_where_that_is_exact(layer):
    assert masks.pruned(nn.Sequential(layer), 0.5).kept == layer.weight.numel() // 2


def test_trying_a_layer_out_draws_nothing_and_changes_nothing():
    layer = Conv2dSame(2, 3, 3)
    layer.register_forward_pre_hook(lambda module, inputs: None)
    before, state = layer.weight.clone(), torch.get_rng_state()
    attach(nn.Sequential(layer))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_resnet26"])
def test_timms_networks_of_standardised_convolutions_are_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    model = model.stages[0].to_empty(device="cpu")
    with pytest.raises(UsageError, match="changes its weight before it multiplies"):
        attach(model)
