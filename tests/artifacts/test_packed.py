"""Packed files: what goes in comes out to the bit, and the file is as small as it promises."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import robustprune.artifacts
from robustprune.artifacts.backends.packed import SHARED, VERSION, Packed
from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import dense_bytes, information_bound, packed_bytes
from robustprune.errors import UsageError
from tests.artifacts.nets import ARCHITECTURES, document, own_network, pruned, saved
from tests.artifacts.packed_reader import read_as_described
from tests.artifacts.test_dense import architecture

OVERHEAD = 8 * 1024


def network(name: str, density: float) -> SavedModel:
    """Masked at random, which is the hardest to pack."""
    return saved(architecture(name), density=density, scores="random")


def returned(path: Path, before: SavedModel, **options: object) -> SavedModel:
    Packed(**options).write(before, path)
    return Packed.read(ModelFile(path))


def assert_same(found: SavedModel, expected: SavedModel) -> None:
    before, after = expected.model.state_dict(), found.model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert found.masks.keys() == expected.masks.keys()
    assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())
    assert found.metadata == expected.metadata


CASES = [("cnn_small", density) for density in (0.01, 0.1, 0.3, 0.9, 1.0)]
CASES += [("cnn_small_bn", 0.05), ("cnn_digits", 0.1)]
LARGE = [("vgg16_bn_cifar", 0.01), ("resnet18_cifar", 0.1), ("cnn_large", 0.05)]


@pytest.mark.parametrize(
    ("name", "density"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)]
)
def test_a_network_comes_back_to_the_bit_within_two_percent_of_the_bound(tmp_path, name, density):
    before, path = network(name, density), tmp_path / "net.safetensors"
    assert_same(returned(path, before), before)
    size = path.stat().st_size
    assert size <= 1.02 * information_bound(before) + OVERHEAD
    assert packed_bytes(before) <= size <= packed_bytes(before) + 600
    if name == "vgg16_bn_cifar":
        assert size <= 0.014 * dense_bytes(before)


@pytest.mark.parametrize("density", [0.02, 0.4])
@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_another_program_reads_what_the_description_says(tmp_path, options, density):
    before, path = saved(options, density=density), tmp_path / "net.safetensors"
    Packed().write(before, path)
    metadata, tensors, masks = read_as_described(path)
    assert metadata == json.loads(json.dumps(before.metadata))
    for name, tensor in before.model.state_dict().items():
        assert tensors[name].tobytes() == tensor.numpy().tobytes()
    assert masks.keys() == before.masks.keys()
    assert all((masks[name] == mask.numpy()).all() for name, mask in before.masks.items())


def test_a_dense_network_can_be_packed(tmp_path):
    before = saved()
    before.masks.clear()
    for parameter in before.model.parameters():
        nn.init.normal_(parameter)
    assert_same(returned(tmp_path / "net.safetensors", before), before)
    assert (tmp_path / "net.safetensors").stat().st_size < dense_bytes(before) + OVERHEAD


def test_zeros_without_a_mask_take_no_room_and_are_no_mask(tmp_path):
    before = network("cnn_small", 0.01)
    masked = packed_bytes(before)
    before.masks.clear()
    assert_same(returned(tmp_path / "net.safetensors", before), before)
    assert (tmp_path / "net.safetensors").stat().st_size < masked + 1000


class Hollow(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("flags", torch.arange(30) == 7)
        self.register_buffer("counts", 9 * (torch.arange(30) == 7))


def test_empty_and_other_tensors_come_back(tmp_path):
    options = own_network("hollow_network", Hollow)
    before = SavedModel(Hollow().eval(), {}, document(options))
    assert_same(returned(tmp_path / "net.safetensors", before), before)


@pytest.mark.parametrize(
    "values", [[0.0], [-0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 3.4e38]], ids=str
)
def test_kept_values_of_every_kind_come_back(tmp_path, values):
    before = saved()
    name, mask = next(iter(before.masks.items()))
    with torch.no_grad():
        weight = before.model.get_parameter(name)
        weight[mask] = torch.tensor(values).repeat(100)[: int(mask.sum())]
    assert_same(returned(tmp_path / "net.safetensors", before), before)


def test_half_precision_halves_the_values_and_nothing_else(tmp_path):
    before, path = network("cnn_small_bn", 0.1), tmp_path / "net.safetensors"
    notes = Packed(values="fp16").export(before, path)
    after = Packed.read(ModelFile(path))
    assert "rounded to half precision" in notes[0]
    assert after.metadata == {**before.metadata, "values": "fp16"}
    for name, tensor in before.model.state_dict().items():
        expected = tensor.half().float() if name in before.masks else tensor
        assert torch.equal(after.model.state_dict()[name], expected), name
    assert path.stat().st_size < 0.65 * packed_bytes(before)


def test_only_single_precision_is_halved_and_that_is_said(tmp_path):
    double = saved()
    double.model.double()
    path = tmp_path / "double.safetensors"
    assert Packed(values="fp16").write(double, path) == []
    assert "values" not in read_as_described(path)[0]


@pytest.mark.parametrize("value", [70_000, torch.inf])
def test_a_weight_beyond_half_precision_is_refused_but_infinity(tmp_path, value):
    before, path = saved(), tmp_path / "net.safetensors"
    name, mask = next(iter(before.masks.items()))
    with torch.no_grad():
        before.model.get_parameter(name)[mask] = value
    if value == torch.inf:
        after = returned(path, before, values="fp16")
        assert after.model.state_dict()[name][mask].isinf().all()
        return
    with pytest.raises(UsageError, match=r"7e\+04, beyond the 65,504 of half precision. Keep fp32"):
        Packed(values="fp16").write(before, path)
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_cannot_be_written_is_named(tmp_path):
    before = SavedModel(*pruned(), document())
    before.model.register_buffer("stages", torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(UsageError, match=r"stages is of type torch.complex64"):
        Packed().write(before, tmp_path / "net.safetensors")


def test_the_bound_by_hand():
    model = nn.Sequential(nn.Linear(4, 2, bias=True))
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = information_bound(SavedModel(model, {"0.weight": mask}, {}))
    # 2 kept of 8: 2 values of 4 bytes, 8·H(1/4) bits, and the bias
    assert found == pytest.approx(8 + 8 * 0.8112781 / 8 + 8)


def test_the_description_names_the_version():
    text = (Path(robustprune.artifacts.__file__).parent / "PACKED.md").read_text()
    assert text.startswith(f"# The packed format, versions {VERSION} and {SHARED}\n")
