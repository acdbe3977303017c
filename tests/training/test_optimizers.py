import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.training import optimizers
from robustprune.training.optimizers import OptimizerPart

KINDS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


def bowl() -> nn.Parameter:
    return nn.Parameter(torch.tensor([3.0, -2.0]))


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_goes_downhill_from_its_defaults(name):
    point = bowl()
    optimizer = optimizers.create(name).build(iter([point]))
    values = []
    for _ in range(3):
        value = (point**2).sum()
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values == sorted(set(values), reverse=True)


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_hands_its_options_to_torch(name):
    part = optimizers.create(name, lr="1/128", weight_decay=0.25)
    (group,) = part.build([bowl()]).param_groups
    for option, value in dict(part).items():
        assert group[option] == value


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_made_anew(name):
    part, point = optimizers.create(name), bowl()
    (point**2).sum().backward()
    first = part.build([point])
    first.step()
    assert not part.build([point]).state


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_documented_and_survives_its_own_document(name):
    part = optimizers.create(name)
    assert type(part).__doc__
    document = part.model_dump(mode="json", serialize_as_any=True)
    assert document.pop("name") == name
    assert optimizers.create(name, **document) == part


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_names_are_torchs(name, kind):
    assert type(optimizers.create(name).build([bowl()])) is getattr(torch.optim, kind)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("sgd", "momentum", 0.5),
        ("sgd", "nesterov", True),
        ("adam", "betas", (0.5, 0.75)),
        ("adam", "eps", 1e-3),
        ("adamw", "betas", (0.0, 0.0)),
        ("rmsprop", "alpha", 0.5),
        ("rmsprop", "momentum", 0.25),
    ],
)
def test_their_own_options_reach_torch(name, option, value):
    (group,) = optimizers.create(name, **{option: value}).build([bowl()]).param_groups
    assert group[option] == value


def test_sgd_by_hand():
    point = bowl()
    optimizer = optimizers.create("sgd", lr=0.5, momentum=0.5, weight_decay=0.25).build([point])
    for _ in range(2):
        point.grad = torch.ones(2)
        optimizer.step()
    # first coordinate: v = 1 + 0.25·3 = 1.75, w = 2.125; v = 0.875 + 1 + 0.53125, w = 0.921875
    assert point[0].item() == 0.921875


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sgd", {"lr": 0}),
        ("sgd", {"lr": -1}),
        ("sgd", {"momentum": 1}),
        ("sgd", {"momentum": 0, "nesterov": True}),
        ("sgd", {"weight_decay": -1e-4}),
        ("sgd", {"betas": [0.9, 0.9]}),
        ("adam", {"betas": [0.9]}),
        ("adam", {"betas": [0.9, 1.0]}),
        ("adam", {"betas": [-0.1, 0.9]}),
        ("adam", {"eps": 0}),
        ("rmsprop", {"alpha": 1}),
        ("adamm", {}),
    ],
)
def test_wrong_options_are_refused(name, fields):
    with pytest.raises(UsageError):
        optimizers.create(name, **fields)


def test_a_base_without_a_method_says_what_it_lacks():
    class Mine(OptimizerPart):
        pass

    with pytest.raises(TypeError, match="Mine must define build"):
        Mine(lr=1).build([bowl()])
