import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustprune.artifacts.backends.packed import Packed
from robustprune.artifacts.checksummed import write_checksummed
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.surgery import apply_surgery
from robustprune.errors import UsageError
from robustprune.models import create_model

ARCHITECTURE = {"name": "cnn_small_bn", "num_classes": 4, "in_chans": 3, "image_size": 16}
# conv 0, norm 1, conv 3, norm 4, then 16 features of each channel into linear 7, and linear 9
FIRST = [i for i in range(16) if i % 3]
SECOND = list(range(4, 31, 2))
FEATURES = [16 * channel + i for channel in SECOND for i in range(16)]
SURGERY = [
    {"layer": "0", "dimension": 0, "kept": FIRST},
    {"layer": "1", "dimension": 0, "kept": FIRST},
    {"layer": "3", "dimension": 1, "kept": FIRST},
    {"layer": "3", "dimension": 0, "kept": SECOND},
    {"layer": "4", "dimension": 0, "kept": SECOND},
    {"layer": "7", "dimension": 1, "kept": FEATURES},
]


def whole(**more: object) -> nn.Module:
    """A network whose channels that are not in FIRST and SECOND are zero behind their norm."""
    torch.manual_seed(0)
    model = create_model(**ARCHITECTURE, **more).eval()
    body = getattr(model, "backbone", model)
    with torch.no_grad():
        for place, kept in ((0, FIRST), (3, SECOND)):
            conv, norm = body[place], body[place + 1]
            gone = [i for i in range(conv.out_channels) if i not in kept]
            norm.running_mean.normal_()
            norm.bias.normal_()
            conv.bias.normal_()
            for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean):
                tensor[gone] = 0
    return model


def by_hand(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are left, cut here and not by what is tested."""
    left = dict(state)
    for name in ("0.weight", "0.bias", *(f"1.{n}" for n in ("weight", "bias"))):
        left[name] = state[name][FIRST]
    for name in ("1.running_mean", "1.running_var"):
        left[name] = state[name][FIRST]
    left["3.weight"], left["3.bias"] = state["3.weight"][SECOND][:, FIRST], state["3.bias"][SECOND]
    for name in ("weight", "bias", "running_mean", "running_var"):
        left[f"4.{name}"] = state[f"4.{name}"][SECOND]
    left["7.weight"] = state["7.weight"][:, FEATURES]
    return {name: tensor.clone() for name, tensor in left.items()}


def document(surgery: list = SURGERY) -> dict:
    return {"model": ARCHITECTURE, "density": 0.5, "surgery": surgery}


def hand_made(folder: Path, surgery: list = SURGERY) -> Path:
    path = folder / "model.safetensors"
    write_checksummed(path, by_hand(whole().state_dict()), document(surgery))
    return path


def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_a_file_that_was_cut_computes_as_before(tmp_path):
    saved = read_model(hand_made(tmp_path))
    assert sum(t.numel() for t in saved.model.parameters()) < 0.5 * sum(
        t.numel() for t in whole().parameters()
    )
    torch.testing.assert_close(saved.model(images()), whole()(images()), rtol=1e-5, atol=1e-5)
    assert saved.metadata == document()


def test_layers_know_their_size(tmp_path):
    model = read_model(hand_made(tmp_path)).model
    assert (model[0].out_channels, model[1].num_features) == (10, 10)
    assert (model[3].in_channels, model[3].out_channels, model[4].num_features) == (10, 14, 14)
    assert (model[7].in_features, model[7].out_features) == (14 * 16, 100)


def test_networks_on_the_meta_device_stay_there():
    with torch.device("meta"):
        model = create_model(**ARCHITECTURE)
    state = apply_surgery(Path("x"), model, document()).state_dict()
    expected = by_hand(whole().state_dict())
    assert all(tensor.is_meta for tensor in state.values())
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in expected.items()}


def test_what_is_left_keeps_its_values():
    state = apply_surgery(Path("x"), whole(), document()).state_dict()
    for name, tensor in by_hand(whole().state_dict()).items():
        assert torch.equal(state[name], tensor), name


def cut(layer: str, dimension: object, kept: object) -> list[dict]:
    return [{"layer": layer, "dimension": dimension, "kept": kept}]


WRONG = {
    "no such layer": (cut("10", 0, [0]), r"no layer is called '10'"),
    "not to be cut": (cut("2", 0, [0]), r"ReLU '2' cannot be cut along dimension 0: Conv2d and"),
    "the whole": (cut("", 0, [0]), r"Sequential '' cannot be cut"),
    "a norm's inputs": (cut("1", 1, [0]), r"BatchNorm2d '1' cannot be cut along dimension 1"),
    "unsorted": (cut("0", 0, [1, 0]), r"of dimension 0 of '0' the kept indices are not ascending"),
    "twice": (cut("0", 0, [0, 0]), r"not ascending"),
    "out of range": (cut("0", 0, [3, 16]), r"index 16 is kept, and there are 16"),
    "enormous": (cut("0", 0, [3, 10**30]), r"index 10+ is kept, and there are 16|valid integer"),
    "negative": (cut("0", 0, [-1]), r"surgery\.0\.kept\.0: input should be greater"),
    "nothing left": (cut("0", 0, []), r"surgery\.0\.kept: list should have at least 1 item"),
    "not whole": (cut("0", 0, [0.5]), r"surgery\.0\.kept\.0"),
    "true": (cut("0", 0, [True]), r"surgery\.0\.kept\.0"),
    "dimension 2": (cut("0", 2, [0]), r"surgery\.0\.dimension: input should be less than"),
    "dimension true": (cut("0", True, [0]), r"surgery\.0\.dimension"),
    "no list": ({"0": [0]}, r"surgery: input should be a valid list"),
    "more than known": ([{**SURGERY[0], "why": 1}], r"surgery\.0\.why: extra inputs"),
    "again": ([*SURGERY, SURGERY[0]], r"'0' is cut twice along dimension 0"),
    "too little": (SURGERY[:-1], r"7\.weight has shape \(100, 224\), not \(100, 512\)"),
    "too much": (
        [*SURGERY, *cut("9", 1, [0, 1])],
        r"9\.weight has shape \(4, 100\), not \(4, 2\)",
    ),
}


@pytest.mark.parametrize(("surgery", "message"), WRONG.values(), ids=WRONG)
def test_surgery_that_does_not_fit_is_refused_on_one_screen(tmp_path, surgery, message):
    path = hand_made(tmp_path, surgery)
    with pytest.raises(UsageError, match=message) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("surgery", [SURGERY[:-1], cut("nowhere", 0, [0]), {"0": [0]}])
def test_a_packed_file_is_held_against_its_surgery_too(tmp_path, surgery):
    saved = read_model(hand_made(tmp_path))
    path = tmp_path / "net.packed.safetensors"
    Packed().write(SavedModel(saved.model, {}, document(surgery)), path)
    with pytest.raises(UsageError, match="is damaged: "):
        read_model(path)


def test_many_faults_are_few_lines(tmp_path):
    path = hand_made(tmp_path, [one for i in range(999) for one in cut(f"x{i}", 0, [0])])
    with pytest.raises(UsageError) as caught:
        read_model(path)
    assert len(str(caught.value)) < 2500


def test_nothing_is_cut_where_something_does_not_fit():
    model = whole()
    with pytest.raises(UsageError):
        apply_surgery(Path("x"), model, document([*SURGERY, *cut("nowhere", 0, [0])]))
    assert model[0].out_channels == 16


# groups


def operated_on(layer: nn.Module, surgery: list[dict]) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(layer))
    return apply_surgery(Path("x"), model, {"surgery": surgery})[0]


def test_a_depthwise_convolution_loses_groups_with_their_inputs():
    layer = nn.Conv2d(6, 6, 3, groups=6)
    left = operated_on(layer, cut("0", 0, [0, 2, 5]))
    assert (left.in_channels, left.out_channels, left.groups) == (3, 3, 3)
    inputs = torch.rand(2, 6, 5, 5)
    torch.testing.assert_close(left(inputs[:, [0, 2, 5]]), layer(inputs)[:, [0, 2, 5]])


def test_groups_keep_equally_many_outputs_or_go():
    layer = nn.Conv2d(4, 6, 1, groups=2)
    left = operated_on(layer, cut("0", 0, [0, 2, 3, 5]))
    inputs = torch.rand(2, 4, 2, 2)
    torch.testing.assert_close(left(inputs), layer(inputs)[:, [0, 2, 3, 5]])
    left = operated_on(layer, cut("0", 0, [4, 5]))  # all of the first group is gone
    assert (left.in_channels, left.groups) == (2, 1)
    torch.testing.assert_close(left(inputs[:, 2:]), layer(inputs)[:, 4:])
    with pytest.raises(UsageError, match="its 2 groups keep unlike numbers of outputs"):
        operated_on(layer, cut("0", 0, [0, 1, 4]))


@pytest.mark.parametrize("turned", [False, True])
def test_an_input_of_a_group_is_at_its_place_in_every_group(turned):
    layer = nn.Conv2d(6, 4, 1, groups=2)
    surgery = [*cut("0", 1, [0, 2]), *cut("0", 0, [1, 3])]
    left = operated_on(layer, surgery[::-1] if turned else surgery)
    assert (left.in_channels, left.out_channels, left.groups) == (4, 2, 2)
    inputs = torch.rand(2, 6, 2, 2)
    inputs[:, [1, 4]] = 0
    torch.testing.assert_close(left(inputs[:, [0, 2, 3, 5]]), layer(inputs)[:, [1, 3]])


def test_layers_that_share_a_weight_are_not_cut():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(UsageError, match="'0' shares a weight with another layer"):
        apply_surgery(Path("x"), model, {"surgery": cut("0", 0, [0])})
