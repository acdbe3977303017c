import copy
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import robustprune
from robustprune.artifacts.container import KEY
from robustprune.artifacts.dense import annotate, save_model
from robustprune.artifacts.reading import load_model, read_metadata, read_model
from robustprune.errors import UsageError
from robustprune.models import create_model
from tests import masks
from tests.artifacts.nets import ARCHITECTURES, DIGITS, document, header, pruned


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_network_comes_back_to_the_bit(tmp_path, architecture):
    model, masks = pruned(architecture)
    file = tmp_path / "deep" / "model.safetensors"
    save_model(file, model, masks=masks, metadata=document(architecture))
    saved = read_model(file)
    assert saved.metadata == read_metadata(file) == document(architecture)
    assert saved.masks.keys() == masks.keys()
    assert all(torch.equal(saved.masks[name], masks[name]) for name in masks)
    before, after = model.state_dict(), saved.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    size = architecture.get("image_size", 32)
    images = torch.rand(2, architecture["in_chans"], size, size)
    assert torch.equal(saved.model(images), model(images))
    assert not any(module.training for module in saved.model.modules())


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight

    model = Tied()
    monkeypatch.setattr("robustprune.artifacts.saved.create_model", lambda **_: Tied())
    save_model(tmp_path / "tied.safetensors", model, masks={}, metadata=document())
    found = read_model(tmp_path / "tied.safetensors").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_dense_network_has_no_masks(tmp_path):
    model = create_model(**DIGITS)
    save_model(tmp_path / "dense.safetensors", model, masks={}, metadata=document())
    assert read_model(tmp_path / "dense.safetensors").masks == {}


def test_load_model_is_the_packages_front_door(path):
    assert robustprune.load_model is load_model
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(robustprune.load_model(str(path))(images), pruned()[0](images))


def test_channels_last_networks_are_written_as_contiguous_ones(tmp_path, path):
    model, masks = pruned()
    model = model.to(memory_format=torch.channels_last)
    masks = {
        name: mask.to(memory_format=torch.channels_last) if mask.dim() == 4 else mask
        for name, mask in masks.items()
    }
    save_model(tmp_path / "turned.safetensors", model, masks=masks, metadata=document())
    assert (tmp_path / "turned.safetensors").read_bytes() == path.read_bytes()


def test_equal_content_is_an_equal_file_whatever_order_it_was_given_in(tmp_path, path):
    model, masks = pruned()
    backwards = dict(reversed(masks.items()))
    turned = dict(reversed(document().items()))
    save_model(tmp_path / "again.safetensors", model, masks=backwards, metadata=turned)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    other, _ = pruned(seed=1)
    save_model(tmp_path / "other.safetensors", other, masks={}, metadata=document())
    assert (tmp_path / "other.safetensors").read_bytes() != path.read_bytes()


def test_a_file_read_and_written_again_is_the_same_file(tmp_path, path):
    saved = read_model(path)
    again = tmp_path / "again.safetensors"
    save_model(again, saved.model, masks=saved.masks, metadata=saved.metadata)
    assert again.read_bytes() == path.read_bytes()


def test_the_metadata_is_one_key_of_sorted_json_and_nothing_of_our_own(path):
    found = json.loads(header(path))["__metadata__"]
    digest = json.loads(found[KEY])["sha256"]
    assert found == {KEY: json.dumps({**document(), "sha256": digest}, sort_keys=True)}
    assert str(path.parent).encode() not in path.read_bytes()


def test_the_digest_by_hand(path):
    model, masks = pruned()
    tensors = model.state_dict() | {f"{name}_mask": mask for name, mask in masks.items()}
    content = json.dumps(document(), sort_keys=True).encode()
    for name, tensor in sorted(tensors.items()):
        shape = ", ".join(map(str, tensor.shape))
        content += f'["{name}", "{tensor.dtype}", [{shape}]]'.encode() + tensor.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() in header(path).decode()


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


def test_a_save_that_fails_halfway_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full_disk(path, content):
        path.open("wb").write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(path, pruned(seed=1)[0], masks={}, metadata=document())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_reading_draws_nothing_from_the_global_generators(path):
    python, arrays, tensors = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    load_model(path)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], arrays)
    assert torch.equal(torch.get_rng_state(), tensors)


def test_a_network_with_a_mask_of_its_own_is_not_taken_for_a_pruned_one(tmp_path, monkeypatch):
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("attn_mask", torch.tensor([1.0, 0.0]))

    model = Masked()
    monkeypatch.setattr("robustprune.artifacts.saved.create_model", lambda **_: Masked())
    kept = masks.pruned(model, 0.5).bake()
    file = tmp_path / "model.safetensors"
    save_model(file, model, masks=kept, metadata=document())
    saved = read_model(file)
    assert set(saved.masks) == {"weight"}
    assert torch.equal(saved.model.attn_mask, model.attn_mask)


def test_a_copy_of_a_loaded_network_can_be_masked(path):
    assert masks.pruned(copy.deepcopy(load_model(path)), 0.05).kept > 0
