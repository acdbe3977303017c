import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustprune.artifacts.reading import load_model, read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import ARCHITECTURES, DIGITS, pruned

BN = ARCHITECTURES["cnn_small_bn"]
NORMALISED = ARCHITECTURES["normalised"]


def state(architecture=BN):
    return dict(pruned(architecture)[0].state_dict())


def written(tmp_path, content, name="net.pt"):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def assert_holds(model: nn.Module, tensors) -> None:
    found = model.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["net.pt", "net.pth.tar", "net.safetensors"])
def test_a_plain_state_dict_is_read_into_a_named_architecture(tmp_path, name):
    path, tensors = written(tmp_path, state(), name), state()
    saved = read_model(path, BN)
    assert_holds(saved.model, tensors)
    assert (saved.masks, saved.metadata, saved.model.training) == ({}, {"model": BN}, False)
    assert_holds(load_model(path, **BN), tensors)


def test_counters_of_batches_may_be_missing(tmp_path):
    tensors = {k: v for k, v in state().items() if "num_batches" not in k}
    path = written(tmp_path, tensors)
    found = read_model(path, BN).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_normalising_network_takes_the_names_of_its_backbone_alone(tmp_path):
    whole = state(NORMALISED)
    bare = {name.removeprefix("backbone."): tensor for name, tensor in whole.items()}
    for tensors in (whole, bare):
        assert_holds(read_model(written(tmp_path, tensors), NORMALISED).model, whole)


def test_a_state_dict_that_normalises_otherwise_is_refused(tmp_path):
    said = {"normalize.mean": torch.tensor([0.5]), "normalize.std": torch.tensor([0.25])}
    path = written(tmp_path, state(NORMALISED) | said)
    assert_holds(read_model(path, NORMALISED).model, state(NORMALISED))
    with pytest.raises(UsageError, match=r"normalises by normalize\.std \[0\.25\].*\[0\.5\]"):
        read_model(path, {**NORMALISED, "std": [0.5]})


def test_every_difference_is_listed(tmp_path):
    tensors = state()
    tensors["more.weight"] = tensors.pop("9.bias")
    tensors["0.weight"] = tensors["0.weight"][:, :1].clone()
    with pytest.raises(UsageError) as error:
        read_model(written(tmp_path, tensors), BN)
    for text in (
        "does not fit model 'cnn_small_bn'",
        "9.bias is missing",
        "more.weight is not of this architecture",
        "0.weight has shape (16, 1, 4, 4), not (16, 3, 4, 4)",
    ):
        assert text in str(error.value)


def test_another_architecture_is_refused_in_a_few_words(tmp_path):
    with pytest.raises(UsageError, match=r"does not fit model 'cnn_small_bn': .*; and \d+ more"):
        read_model(written(tmp_path, state(DIGITS)), BN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict, but a list"),
        ({}, "holds no state dict, but a mapping of nothing"),
        ({"epoch": 3, "weights": {}}, "holds no state dict, but a mapping of epoch, weights"),
        (torch.ones(3), "holds no state dict, but a Tensor"),
        ({"state_dict": {}}, "holds no state dict, but a mapping of state_dict"),
    ],
    ids=str,
)
def test_what_is_no_state_dict_is_described(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        read_model(written(tmp_path, content), BN)


def test_a_file_of_another_name_is_not_touched(tmp_path):
    (tmp_path / "net.onxx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"must end in: \.safetensors, \.pt"):
        read_model(tmp_path / "net.onxx", BN)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_without_an_architecture_it_says_how_to_name_one(tmp_path, name):
    with pytest.raises(UsageError, match=r"--arch NAME.*model: \{name: NAME, weights: FILE\}"):
        read_model(written(tmp_path, state(), name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to_sparse(), "0.weight are no plain tensors"),
        (lambda t: t.to("meta"), "0.weight are no plain tensors"),
        (lambda t: t.to(torch.complex64), "0.weight is of type torch.complex64, not torch.float32"),
        (lambda t: t.long(), "0.weight is of type torch.int64, not torch.float32"),
    ],
)
def test_tensors_that_are_no_dense_floats_are_refused(tmp_path, change, message):
    tensors = state()
    tensors["0.weight"] = change(tensors["0.weight"])
    with pytest.raises(UsageError, match=message):
        read_model(written(tmp_path, tensors), BN)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_values_that_are_no_finite_single_are_refused(tmp_path, value):
    tensors = state()
    tensors["0.weight"] = tensors["0.weight"].double()
    tensors["0.weight"][0, 0, 0, 0] = value
    with pytest.raises(UsageError, match=r"infinite or no numbers, in 0\.weight"):
        read_model(written(tmp_path, tensors), BN)


def test_a_last_layer_for_other_classes_is_told_with_the_remedy(tmp_path):
    path = written(tmp_path, state())
    with pytest.raises(UsageError, match="If it tells 10 classes apart, say so: num_classes"):
        read_model(path, {**BN, "num_classes": 7})


def test_a_network_that_normalises_is_told_with_the_remedy(tmp_path):
    said = {"normalize.mean": torch.tensor([0.5]), "normalize.std": torch.tensor([0.25])}
    path = written(tmp_path, state(NORMALISED) | said)
    with pytest.raises(UsageError, match=r"name the model's 'mean' \[0.5\] and 'std' \[0.25\]"):
        read_model(path, DIGITS)


def test_a_counter_that_the_file_has_is_the_file_s(tmp_path):
    tensors = state()
    name = next(name for name in tensors if name.endswith("num_batches_tracked"))
    tensors[name] = torch.tensor(7)
    found = read_model(written(tmp_path, tensors), BN).model.state_dict()
    assert found[name] == 7


def test_half_precision_is_read_as_it_is_meant(tmp_path):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    found = read_model(written(tmp_path, halves), BN).model.state_dict()
    assert all(
        torch.equal(found[name], half.to(found[name].dtype)) for name, half in halves.items()
    )


@pytest.mark.parametrize("mean", [[0.5, 0.5], [], [float("nan")], [1]])
def test_statistics_of_another_kind_are_refused(tmp_path, mean):
    said = {"normalize.mean": torch.tensor(mean)}
    with pytest.raises(UsageError, match=r"normalises by normalize\.mean"):
        read_model(written(tmp_path, state(NORMALISED) | said), NORMALISED)
