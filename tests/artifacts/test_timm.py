"""Files for timm are loaded by timm itself, strictly, and compute the same."""

import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from robustprune.artifacts import backends
from robustprune.artifacts.reading import read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import ARCHITECTURES, cut, saved

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
RESNET = {"name": "test_resnet", "num_classes": 4, "in_chans": 3, "image_size": 32}
ALIKE, APART = RESNET | {"mean": [0, 0, 0], "std": [1, 1, 1]}, RESNET | {"mean": MEAN, "std": STD}


@pytest.mark.parametrize("architecture", [ALIKE, APART], ids=["as it is", "normalised"])
def test_timm_loads_it_strictly_and_computes_the_same(tmp_path, architecture):
    network, path = saved(architecture), tmp_path / "net.timm.safetensors"
    backend = backends.create("timm")
    notes = " ".join(backend.export(network, path))
    theirs = timm.create_model("test_resnet", num_classes=4)
    theirs.load_state_dict(load_file(path), strict=True)
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(architecture[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network.model(images)
        torch.testing.assert_close(theirs.eval()((images - mean) / std), expected)
        torch.testing.assert_close(read_model(path).model(images), expected, rtol=0, atol=0)
        scope = {"timm": timm, "torch": torch, "images": images}
        code = backend.loading(network, path).replace(path.name, str(path))
        exec(code, scope)
        torch.testing.assert_close(scope["logits"], expected)
    assert ("normalised outside" in notes) is (architecture is APART)
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["robustprune"])["timm"]["pretrained_cfg"]
    assert (said["mean"], said["std"]) == (architecture["mean"], architecture["std"])
    assert said["input_size"] == [3, 32, 32]


def test_masks_and_metadata_come_back(tmp_path):
    network = saved(APART)
    backends.create("timm").export(network, tmp_path / "net.safetensors")
    again = read_model(tmp_path / "net.safetensors")
    assert again.metadata == network.metadata
    assert again.masks.keys() == network.masks.keys()
    assert all(torch.equal(mask, network.masks[name]) for name, mask in again.masks.items())


def test_what_timm_cannot_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no layer that normalises.*normalisation=outside"):
        backends.create("timm", normalisation="inside").export(
            saved(APART), tmp_path / "a.safetensors"
        )
    with pytest.raises(UsageError, match="cut out of the network"):
        backends.create("timm").export(cut(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_networks_of_ours_are_plain_and_say_so(tmp_path):
    network, path = saved(ARCHITECTURES["normalised"]), tmp_path / "net.timm.safetensors"
    backend = backends.create("timm")
    assert "timm does not know 'cnn_digits'" in backend.export(network, path)[0]
    assert "robustprune.load_model" in backend.loading(network, path)
