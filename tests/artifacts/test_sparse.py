"""Sparse files: they compute what the network does, and are for running only."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustprune.artifacts.backends.sparse import Sparse
from robustprune.artifacts.card import card_path, write_card
from robustprune.artifacts.reading import is_model_file, read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.cli import main
from robustprune.errors import UsageError
from robustprune.kernels import Program, available
from robustprune.kernels.file import read
from tests.artifacts.nets import DIGITS, NETWORKS, document, own_network, saved, saved_to

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))


def logits(path, images: Tensor) -> Tensor:
    operations, shape, _ = read(path)
    return torch.from_numpy(Program(operations, shape)(images.numpy()))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_kernels_compute_what_the_network_does(tmp_path, name):
    before, path = NETWORKS[name](), tmp_path / "net.sparse"
    notes = Sparse().export(before, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    operations, shape, metadata = read(path)
    assert metadata == before.metadata
    assert not any(one.kind == "affine" for one in operations) or name == "normalised"
    images = torch.rand(20, *shape)
    with torch.no_grad():
        torch.testing.assert_close(logits(path, images), before.model(images))
    write_card(before, path, Sparse(), notes)
    card = card_path(path).read_text()
    assert "format sparse" in card
    assert 'robustprune_runtime.load("net.sparse")' in card


def test_nothing_is_kept_but_what_is_not_zero(tmp_path):
    before, path = saved(), tmp_path / "net.sparse"
    Sparse().export(before, path)
    weights = [one.arrays["weight"] for one in read(path)[0] if "weight" in one.arrays]
    kept = sum(np.count_nonzero(weight) for weight in weights)
    assert kept == sum(int(mask.sum()) for mask in before.masks.values())
    assert path.stat().st_size < 6 * kept + 2500


class Attention(nn.Module):
    """One with a call that the kernels do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.gate = nn.GELU()

    def forward(self, images: Tensor) -> Tensor:
        return self.gate(self.fc(images.flatten(1)))


def test_operations_that_the_kernels_do_not_know_are_named(tmp_path):
    network = SavedModel(Attention().eval(), {}, document(own_network("gated_network", Attention)))
    with pytest.raises(UsageError, match="do not know gate of this network"):
        Sparse().export(network, tmp_path / "net.sparse")
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_not_written(tmp_path):
    network = saved()
    with torch.no_grad():
        network.model[0].bias.fill_(torch.nan)
    with pytest.raises(UsageError):
        Sparse().export(network, tmp_path / "net.sparse")
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_double_precision_is_rounded(tmp_path):
    network = saved()
    network.model.double()
    Sparse().export(network, tmp_path / "net.sparse")
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = network.model(images.double()).float()
    torch.testing.assert_close(logits(tmp_path / "net.sparse", images), expected)
    assert network.model[0].weight.dtype == torch.float64


def test_a_file_is_for_running_and_says_so(tmp_path, capsys):
    path = tmp_path / "net.sparse"
    Sparse().export(saved(), path)
    assert is_model_file(path)
    for architecture in (None, DIGITS):
        with pytest.raises(UsageError, match=r"net.sparse is for running.*exported from"):
            read_model(path, architecture)
    assert main(["evaluate", str(path), "--evaluator", "clean"]) == 2
    assert "is for running" in capsys.readouterr().err


def test_the_command_writes_a_file_and_its_card(tmp_path):
    model = saved_to(tmp_path / "model.safetensors", saved())
    assert main(["export", str(model), "--format", "sparse"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "model.safetensors",
        "model.sparse",
        "model.sparse.md",
    }
