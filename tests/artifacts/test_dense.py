"""Plain state dicts under the field's names, for others to load."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustprune.artifacts import backends
from robustprune.artifacts.checksummed import ModelFile, write_checksummed
from robustprune.artifacts.reading import load_model, read_model
from robustprune.errors import UsageError
from robustprune.models import BACKBONES, create_model
from tests.artifacts.nets import ARCHITECTURES, cut, own_network, saved


def architecture(name: str) -> dict:
    grey = name == "cnn_digits"
    shape = {"in_chans": 1, "image_size": 8} if grey else {"in_chans": 3, "image_size": 32}
    return {"name": name, "num_classes": 10, **shape}


RESNET = pytest.param("resnet18_cifar", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [RESNET, "cnn_small_bn"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_backbone_s_state_dict_is_loaded_strictly_by_the_plain_network(tmp_path, name, ending):
    assert name in BACKBONES
    before, path = saved(architecture(name)), tmp_path / f"net{ending}"
    assert backends.create("dense").export(before, path) == []
    tensors = torch.load(path, weights_only=True) if ending == ".pt" else load_file(path)
    plain = create_model(**architecture(name)).eval()
    plain.load_state_dict(tensors, strict=True)
    for key, tensor in before.model.state_dict().items():
        assert torch.equal(plain.state_dict()[key], tensor)
    if name == "resnet18_cifar":  # the names that others give to the usual one's tensors
        assert {"conv1.weight", "linear.weight", "linear.bias"} <= tensors.keys()
        assert len(tensors) == 122


def test_equal_networks_are_equal_pt_files(tmp_path):
    for name in ("one.pt", "two.pt"):
        backends.create("dense").export(saved(), tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(64, 2)

    def forward(self, images):
        return self.module(images.flatten(1))


def test_names_that_look_like_a_wrapper_s_are_the_network_s_own(tmp_path):
    before = saved(own_network("wrapped_network", Wrapped))
    for name, asked in (("net.safetensors", {}), ("net.pt", before.metadata["model"])):
        backends.create("dense").export(before, tmp_path / name)
        after = load_model(tmp_path / name, **asked)
        assert torch.equal(after.module.weight, before.model.module.weight)


def test_a_normalising_network_is_written_with_its_statistics(tmp_path):
    before = saved(ARCHITECTURES["normalised"])
    images = torch.rand(2, 1, 8, 8)
    for name, asked in (("net.safetensors", {}), ("net.pt", ARCHITECTURES["normalised"])):
        (note,) = backends.create("dense").export(before, tmp_path / name)
        assert "mean [0.5] and deviation [0.25]" in note
        assert torch.equal(load_model(tmp_path / name, **asked)(images), before.model(images))
    tensors = torch.load(tmp_path / "net.pt", weights_only=True)
    assert tensors["normalize.mean"].flatten().tolist() == [0.5]
    assert "backbone.0.weight" in tensors


def test_a_file_that_cannot_tell_of_surgery_is_not_written(tmp_path):
    with pytest.raises(UsageError, match=r"cannot say what was cut .* Write a \.safetensors"):
        backends.create("dense").export(cut(), tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "wrong"), [("masked", ["nothing"]), ("masked", 3), ("model", {"name": "cnn_digit"})]
)
def test_an_exported_state_dict_that_was_changed_is_refused(tmp_path, key, wrong):
    path = tmp_path / "net.safetensors"
    backends.create("dense").export(saved(), path)
    metadata, tensors = ModelFile(path).checksummed()
    write_checksummed(path, tensors, {**metadata, key: wrong})
    with pytest.raises(UsageError):
        read_model(path)
