"""Packed files: what goes in comes out to the bit, and the file is as small as it promises."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from robustprune.artifacts.dense import save_model
from robustprune.artifacts.packed import is_packed, packed_bytes, read_packed, save_packed
from robustprune.artifacts.reading import load_model, read_metadata, read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import dense_bytes, information_bound
from robustprune.errors import UsageError
from robustprune.models import backbones
from tests.artifacts.nets import ARCHITECTURES, DIGITS, document, pruned
from tests.artifacts.packed_reader import read_as_described

OVERHEAD = 8 * 1024


def architecture(name: str) -> dict:
    grey = name == "cnn_digits"
    shape = {"in_chans": 1, "image_size": 8} if grey else {"in_chans": 3, "image_size": 32}
    return {"name": name, "num_classes": 10, **shape}


def network(name: str, density: float) -> SavedModel:
    return saved(architecture(name), density)


def saved(options: dict = DIGITS, density: float = 0.1) -> SavedModel:
    """Masked at random, which is the hardest to pack."""
    model, masks = pruned(options, density=density, scores="random")
    return SavedModel(model, masks, document(options))


def assert_same(found: SavedModel, expected: SavedModel) -> None:
    before, after = expected.model.state_dict(), found.model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert found.masks.keys() == expected.masks.keys()
    assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())
    assert found.metadata == expected.metadata
    assert not found.model.training


CASES = [
    *((name, density) for name in backbones() for density in (0.1, 0.05, 0.01)),
    *(("cnn_small", density) for density in (0.3, 0.5, 0.9, 1.0)),
]


@pytest.mark.parametrize(
    ("name", "density"), [c for c in CASES if c[0] != "wrn_28_10" or c[1] == 0.1]
)
def test_every_backbone_comes_back_to_the_bit_within_two_percent_of_the_bound(
    tmp_path, name, density
):
    before, path = network(name, density), tmp_path / "net.safetensors"
    save_packed(path, before)
    size = path.stat().st_size
    assert size <= 1.02 * information_bound(before) + OVERHEAD
    assert packed_bytes(before) <= size <= packed_bytes(before) + 600
    if name == "vgg16_bn_cifar" and density == 0.01:
        assert size <= 0.014 * dense_bytes(before)
    assert_same(read_packed(path), before)


@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_it_is_a_model_file_like_any_other(tmp_path, options):
    before, path = saved(options), tmp_path / "net.safetensors"
    save_packed(path, before)
    assert_same(read_model(path), before)
    assert read_metadata(path) == before.metadata
    images = torch.rand(2, options["in_chans"], *[options.get("image_size", 32)] * 2)
    assert torch.equal(load_model(path)(images), before.model(images))


def test_another_program_reads_what_the_description_says(tmp_path):
    for number, options in enumerate([*ARCHITECTURES.values(), architecture("cnn_small_bn")]):
        before, path = saved(options, density=(0.02, 0.4)[number % 2]), tmp_path / "net.safetensors"
        save_packed(path, before)
        metadata, tensors, masks = read_as_described(path)
        assert metadata == json.loads(json.dumps(before.metadata))
        for name, tensor in before.model.state_dict().items():
            assert tensors[name].tobytes() == tensor.numpy().tobytes()
        assert masks.keys() == before.masks.keys()
        for name, mask in before.masks.items():
            assert (masks[name] == mask.numpy()).all()


def test_a_file_of_ours_must_agree_with_what_is_asked_of_it(tmp_path):
    options = architecture("cnn_digits")
    before, path = saved(options), tmp_path / "net.safetensors"
    save_packed(path, before)
    images = torch.rand(1, 1, 8, 8)
    for asked in ({"name": "cnn_digits"}, {"name": "cnn_digits.tag"}, {"image_size": 9}, options):
        assert torch.equal(load_model(path, **asked)(images), before.model(images))
    assert read_model(path, {**options, "image_size": 9}).metadata == before.metadata
    for asked in ({"name": "cnn_small"}, {"num_classes": 9}, {"drop_rate": 0.5}):
        with pytest.raises(UsageError, match="another network than the one asked for"):
            load_model(path, **asked)
    with pytest.raises(UsageError, match="num_classes is 10 in the file and None here"):
        read_model(path, {"name": "cnn_digits", "in_chans": 1})


def test_a_dense_file_that_speaks_of_packed_ones_is_a_dense_one(tmp_path):
    before = saved()
    before.metadata["recipe"] = "packed"
    path = tmp_path / "net.safetensors"
    save_model(path, before.model, masks=before.masks, metadata=before.metadata)
    assert not is_packed(path)
    assert_same(read_model(path), before)


def test_equal_networks_are_equal_files(tmp_path):
    for name in ("one", "two"):
        save_packed(tmp_path / name, saved())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_dense_network_can_be_packed(tmp_path):
    before = saved()
    before.masks.clear()
    torch.manual_seed(0)
    for parameter in before.model.parameters():
        nn.init.normal_(parameter)
    save_packed(tmp_path / "net", before)
    assert_same(read_packed(tmp_path / "net"), before)
    assert (tmp_path / "net").stat().st_size < dense_bytes(before) + OVERHEAD


def test_zeros_without_a_mask_take_no_room_and_are_no_mask(tmp_path):
    before = saved(architecture("cnn_small"), 0.01)
    masked = packed_bytes(before)
    before.masks.clear()
    save_packed(tmp_path / "net", before)
    assert_same(read_packed(tmp_path / "net"), before)
    assert (tmp_path / "net").stat().st_size < masked + 1000


def test_an_empty_tensor_comes_back(tmp_path, monkeypatch):
    class Sparse(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("nothing", torch.empty(0, 3))

    monkeypatch.setattr("robustprune.artifacts.saved.create_model", lambda **_: Sparse())
    before = SavedModel(Sparse().eval(), {}, document())
    save_packed(tmp_path / "net", before)
    assert_same(read_packed(tmp_path / "net"), before)


def test_a_kept_zero_is_kept(tmp_path):
    before = saved()
    name, mask = next(iter(before.masks.items()))
    with torch.no_grad():
        before.model.get_parameter(name)[mask] = 0
    save_packed(tmp_path / "net", before)
    assert_same(read_packed(tmp_path / "net"), before)


def test_values_of_every_kind_come_back(tmp_path):
    before = saved()
    weight = before.model.get_parameter(next(iter(before.masks)))
    with torch.no_grad():
        kept = weight != 0
        values = [-0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 3.4e38]
        weight[kept] = torch.tensor(values).repeat(100)[: int(kept.sum())]
    save_packed(tmp_path / "net", before)
    assert_same(read_packed(tmp_path / "net"), before)


def test_half_precision_halves_the_values_and_nothing_else(tmp_path):
    options = architecture("cnn_small_bn")
    before, path = saved(options), tmp_path / "net.safetensors"
    save_packed(path, before, values="fp16")
    after = read_packed(path)
    assert after.metadata == {**before.metadata, "values": "fp16"}
    for name, tensor in before.model.state_dict().items():
        expected = tensor.half().float() if name in before.masks else tensor
        assert torch.equal(after.model.state_dict()[name], expected), name
    assert path.stat().st_size < 0.65 * packed_bytes(before)


def test_only_single_precision_is_halved_and_that_is_said(tmp_path):
    single, double = saved(), saved()
    double.model.double()
    assert save_packed(tmp_path / "single", single, values="fp16")
    assert not save_packed(tmp_path / "double", double, values="fp16")
    assert not save_packed(tmp_path / "whole", single)
    assert "values" not in read_as_described(tmp_path / "double")[0]


def test_a_weight_that_is_infinite_already_may_be_halved(tmp_path):
    before = saved()
    name, mask = next(iter(before.masks.items()))
    with torch.no_grad():
        before.model.get_parameter(name)[mask] = torch.inf
    save_packed(tmp_path / "net", before, values="fp16")
    assert read_packed(tmp_path / "net").model.state_dict()[name][mask].isinf().all()


def test_a_weight_beyond_half_precision_is_refused(tmp_path):
    before = saved()
    name, mask = next(iter(before.masks.items()))
    with torch.no_grad():
        before.model.get_parameter(name)[mask] = 70_000
    with pytest.raises(UsageError, match=r"7e\+04, beyond the 65,504 of half precision. Keep fp32"):
        save_packed(tmp_path / "net", before, values="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    before = saved()
    before.model.register_buffer("stages", torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(UsageError, match=r"stages is of type torch.complex64"):
        save_packed(tmp_path / "net", before)


def test_the_bound_by_hand():
    model = nn.Sequential(nn.Linear(4, 2, bias=True))
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = information_bound(SavedModel(model, {"0.weight": mask}, {}))
    # 2 kept of 8: 2 values of 4 bytes, 8·H(1/4) bits, and the bias
    assert found == pytest.approx(8 + 8 * 0.8112781 / 8 + 8)


def test_the_description_names_the_version():
    from robustprune.artifacts import packed

    text = (Path(packed.__file__).parent / "PACKED.md").read_text()
    assert text.startswith(f"# The packed format, version {packed.VERSION}\n")
