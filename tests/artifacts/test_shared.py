"""Weights that share values, as in Deep Compression."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from robustprune.artifacts import backends
from robustprune.artifacts.backends.packed import Packed
from robustprune.artifacts.packing import PackError, pack_tensor, share, unpack_tensor
from robustprune.artifacts.reading import read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import ARCHITECTURES, saved
from tests.artifacts.packed_reader import read_as_described
from tests.artifacts.test_packed_damaged import resealed


def test_six_values_are_shared_as_by_brute_force():
    values = torch.tensor([-1.1, 0.2, -0.9, 0.25, 0.9, 1.2])

    def error(cuts: tuple[int, ...]) -> float:
        parts = torch.tensor_split(values.sort().values, cuts)
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts)

    best = min(error(cuts) for cuts in combinations(range(1, 6), 2))
    centres, codes = share(values, 3)
    assert codes.tolist() == [0, 1, 0, 1, 2, 2]
    torch.testing.assert_close(centres, torch.tensor([-1.0, 0.225, 1.05]))
    assert float(((centres[codes.long()] - values) ** 2).sum()) == pytest.approx(best, rel=1e-4)


def test_few_distinct_values_stay_exact():
    values = torch.tensor([0.5, -0.5, 0.5, 0.25])
    centres, codes = share(values, 16)
    assert torch.equal(centres[codes.long()], values)


def test_a_shared_file_is_what_the_description_says(tmp_path):
    before = saved(ARCHITECTURES["cnn_small_bn"])
    before = replace(before, metadata=before.metadata | {"metrics": {"clean": 0.5, "clean_n": 9}})
    path, exact = tmp_path / "a.packed.safetensors", tmp_path / "b.packed.safetensors"
    notes = Packed(codebook=16).export(before, path)
    Packed().export(before, exact)
    assert "share 16 values" in notes[0]
    assert path.stat().st_size < 0.6 * exact.stat().st_size
    after = read_model(path)
    assert "metrics" not in after.metadata
    assert after.metadata["values"] == "16 shared"
    _, tensors, masks = read_as_described(path)
    for name, tensor in after.model.state_dict().items():
        assert tensors[name].tobytes() == tensor.numpy().tobytes()
        mask = before.masks.get(name)
        if mask is None:
            assert name.endswith("weight") or torch.equal(tensor, before.model.state_dict()[name])
            continue
        assert (masks[name] == mask.numpy()).all()
        assert len(tensor[mask].unique()) <= 16


def test_a_code_beyond_the_codebook_is_refused():
    entry, where, what = pack_tensor("w", torch.tensor([1.0, 2.0, 3.0, 4.0]), None, codebook=2)
    assert where == b""
    content = torch.frombuffer(bytearray(what), dtype=torch.uint8).numpy()
    tensor, _ = unpack_tensor(entry, content[:0], content)
    assert tensor.tolist() == [1.5, 1.5, 3.5, 3.5]
    content[-1] = 2
    with pytest.raises(PackError, match="beyond its 2 shared values"):
        unpack_tensor(entry, content[:0], content)


def codebook(manifest, frames):
    manifest["tensors"][1]["codebook"] = 4


@pytest.mark.parametrize("version", [1, 2])
def test_a_codebook_that_is_none_is_refused(tmp_path, version):
    path = tmp_path / "net.packed.safetensors"
    Packed().write(saved(), path)
    resealed(path, codebook, version)
    with pytest.raises(UsageError, match="damaged"):
        read_model(path)


def test_options_out_of_range_are_told():
    with pytest.raises(UsageError, match="codebook"):
        backends.create("packed", codebook="300")


def test_a_weight_that_is_no_number_shares_none(tmp_path: Path):
    network = saved()
    with torch.no_grad():
        weight = network.model.get_parameter(min(network.masks))
        weight[weight != 0] = float("nan")
    with pytest.raises(UsageError, match="infinite or no number"):
        backends.create("packed", codebook=16).export(network, tmp_path / "a.packed.safetensors")
