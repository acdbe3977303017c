"""A run's model file: what goes in comes out to the bit, and equal content is an equal file."""

import copy
import hashlib
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

import robustprune
from robustprune.artifacts.checksummed import KEY
from robustprune.artifacts.reading import load_model, read_model
from robustprune.artifacts.saved import annotate, save_model
from robustprune.errors import UsageError
from tests import masks
from tests.artifacts.nets import (
    ARCHITECTURES,
    NETWORKS,
    document,
    header,
    own_network,
    pruned,
    saved,
    saved_to,
)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_comes_back_to_the_bit(tmp_path, network):
    before = NETWORKS[network]()
    path = saved_to(tmp_path / "deep" / "model.safetensors", before)
    after = read_model(path)
    assert after.metadata == before.metadata
    assert after.masks.keys() == before.masks.keys()
    assert all(torch.equal(after.masks[name], mask) for name, mask in before.masks.items())
    expected, found = before.model.state_dict(), after.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not any(module.training for module in after.model.modules())
    again = saved_to(tmp_path / "again.safetensors", after)
    assert again.read_bytes() == path.read_bytes()


def test_load_model_is_the_packages_front_door(path):
    assert robustprune.load_model is load_model
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustprune.load_model(str(path))(images), pruned()[0](images))


def test_equal_content_is_an_equal_file_in_whatever_order_and_layout_it_was(tmp_path, path):
    model, masks = pruned()
    model = model.to(memory_format=torch.channels_last)
    turned = {
        name: mask.to(memory_format=torch.channels_last) if mask.dim() == 4 else mask
        for name, mask in reversed(masks.items())
    }
    metadata = dict(reversed(document().items()))
    save_model(tmp_path / "again.safetensors", model, masks=turned, metadata=metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    other = saved_to(tmp_path / "other.safetensors", saved(seed=1))
    assert other.read_bytes() != path.read_bytes()


def test_the_metadata_is_one_key_of_sorted_json_with_the_digest_by_hand(path):
    model, masks = pruned()
    tensors = model.state_dict() | {f"{name}_mask": mask for name, mask in masks.items()}
    content = json.dumps(document(), sort_keys=True).encode()
    for name, tensor in sorted(tensors.items()):
        shape = ", ".join(map(str, tensor.shape))
        content += f'["{name}", "{tensor.dtype}", [{shape}]]'.encode() + tensor.numpy().tobytes()
    digest = hashlib.sha256(content).hexdigest()
    found = json.loads(header(path))["__metadata__"]
    assert found == {KEY: json.dumps({**document(), "sha256": digest}, sort_keys=True)}
    assert str(path.parent).encode() not in path.read_bytes()


def test_a_file_that_already_says_so_is_not_written_again(path):
    annotate(path, metrics={"clean": 0.5})
    before = path.stat()
    annotate(path, metrics={"clean": 0.5}, turnover=0.25)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    annotate(path, metrics={"clean": 0.75})
    assert read_model(path).metadata["metrics"] == {"clean": 0.75}


def test_a_state_dict_that_holds_more_than_tensors_is_refused(tmp_path):
    class Talkative(nn.Linear):
        def get_extra_state(self):
            return {"note": 3}

    with pytest.raises(UsageError, match="_extra_state in its state dict are no plain tensors"):
        save_model(tmp_path / "a.safetensors", Talkative(2, 2), masks={}, metadata=document())
    assert list(tmp_path.iterdir()) == []


def test_saving_is_whole_or_not_at_all(path):
    before = path.read_bytes()
    model, masks = pruned(seed=1)
    with pytest.raises(ValueError, match="JSON"):
        save_model(path, model, masks=masks, metadata={"turnover": float("nan")})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_reading_draws_nothing_from_the_global_generators(path):
    python, arrays, tensors = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    load_model(path)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], arrays)
    assert torch.equal(torch.get_rng_state(), tensors)


class Masked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 2)
        self.register_buffer("attn_mask", torch.tensor([1.0, 0.0]))


def test_a_network_with_a_mask_of_its_own_is_not_taken_for_a_pruned_one(tmp_path):
    before = saved(own_network("masked_network", Masked), density=0.5)
    after = read_model(saved_to(tmp_path / "model.safetensors", before))
    assert set(after.masks) == {"weight"}
    assert torch.equal(after.model.attn_mask, before.model.attn_mask)


def test_a_copy_of_a_loaded_network_can_be_masked(path):
    assert masks.pruned(copy.deepcopy(load_model(path)), 0.05).kept > 0


def test_a_file_of_ours_must_agree_with_what_is_asked_of_it(path):
    options = ARCHITECTURES["cnn_digits"]
    for asked in ({"name": "cnn_digits"}, {"name": "cnn_digits.tag"}, {"image_size": 9}, options):
        assert load_model(path, **asked)(torch.rand(1, 1, 8, 8)).shape == (1, 10)
    assert read_model(path, {**options, "image_size": 9}).metadata == document()
    for asked in ({"name": "cnn_small"}, {"num_classes": 9}, {"drop_rate": 0.5}):
        with pytest.raises(UsageError, match="another network than the one asked for"):
            load_model(path, **asked)
    with pytest.raises(UsageError, match="num_classes is 10 in the file and None here"):
        read_model(path, {"name": "cnn_digits", "in_chans": 1})


def test_a_network_of_ones_own_that_looks_at_its_values_is_built_too(tmp_path):
    def looks_at_values() -> nn.Module:
        width = int(torch.linspace(0, 8, 3)[2].item())  # which a network of shapes alone has not
        return nn.Sequential(nn.Flatten(1), nn.Linear(8 * width, 10))

    before = saved(own_network("looks_at_values", looks_at_values))
    after = read_model(saved_to(tmp_path / "model.safetensors", before)).model.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.model.state_dict().items())
