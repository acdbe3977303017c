"""Every backend writes networks that compute the same, or says why not."""

from pathlib import Path

import pytest
import torch

from robustprune.artifacts import backends
from robustprune.artifacts.card import card_path, write_card
from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.reading import is_model_file, load_model, read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import MissingDependencyError, UsageError
from tests.artifacts.nets import DIGITS, NETWORKS, saved

BUILT_IN = backends.names()
READ_AGAIN = [n for n in BUILT_IN if n not in ("sparse", "pt2", "int8")]
NEVER = ("timm", "after surgery")  # see test_timm.py


def created(name: str) -> backends.Backend:
    backend = backends.create(name)
    for library in backend.libraries:
        pytest.importorskip(library, reason=backend.install)
    return backend


def images(network: SavedModel) -> torch.Tensor:
    size, channels = network.metadata["model"]["image_size"], network.metadata["model"]["in_chans"]
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(1))


def row(name: str, network: str):
    slow = name == "onnx" and network != "after surgery"  # one of a kind is quick enough
    return pytest.param(name, network, marks=[pytest.mark.slow] * slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"), [row(b, n) for b in READ_AGAIN for n in NETWORKS if (b, n) != NEVER]
)
def test_what_is_written_is_read_again_and_computes_the_same(tmp_path, name, network):
    backend, before = created(name), NETWORKS[network]()
    path = tmp_path / "deep" / f"net{backend.suffixes[0]}"
    notes = backend.export(before, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert is_model_file(path)
    assert [n for n in backends.names() if backends.get(n).recognises(ModelFile(path))] == [name]
    after = read_model(path)
    assert after.metadata == before.metadata
    assert after.masks.keys() == before.masks.keys()
    assert all(torch.equal(after.masks[n], mask) for n, mask in before.masks.items())
    for key, tensor in before.model.state_dict().items():
        assert name == "onnx" or torch.equal(after.model.state_dict()[key], tensor), key
    assert not after.model.training
    with torch.no_grad():
        expected = before.model(images(before))
        torch.testing.assert_close(load_model(path)(images(before)), expected)
    write_card(before, path, backend, notes)
    assert f"format {name}." in card_path(path).read_text()


@pytest.mark.parametrize("name", BUILT_IN)
def test_names_of_files_are_told_and_nothing_is_left_behind(tmp_path, name):
    backend = created(name)
    assert all(suffix.startswith(".") for suffix in backend.suffixes)
    with pytest.raises(
        UsageError, match=f"a file of format '{name}' ends in {backend.suffixes[0]}"
    ):
        backend.export(saved(), tmp_path / "net.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [n for n in BUILT_IN if n not in ("onnx", "int8")]
)  # torch numbers its graphs
def test_equal_networks_are_equal_files(tmp_path, name):
    one, two = (tmp_path / f"{number}{backends.get(name).suffixes[0]}" for number in (1, 2))
    for path in (one, two):
        backends.create(name).export(saved(), path)
    assert one.read_bytes() == two.read_bytes()


def test_an_unknown_format_is_told_with_those_that_there_are():
    with pytest.raises(
        UsageError,
        match=r"unknown backend 'onxx'.*mean 'onnx'.*dense, int8, onnx, packed, pt2, sparse",
    ):
        backends.create("onxx")


def test_a_size_that_the_network_does_not_take_is_told(tmp_path):
    network = saved()
    network.metadata["model"] = {**DIGITS, "image_size": 9}
    with pytest.raises(UsageError, match=r"does not take images of 1×9×9.*--data NAME"):
        backends.create("packed").export(network, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


class Plain(backends.Backend):
    """Of one's own: for others only."""

    registered_name = "plain"
    suffixes = (".plain",)

    def write(self, network: SavedModel, path: Path) -> list[str]:
        path.write_text("\n".join(network.model.state_dict()))
        return ["Names only."]


class Wrong(Plain):
    scale: float = 2.0

    def run(self, network, path):
        assert path.read_text()
        return lambda images: self.scale * network.model(images)


class Missing(Plain):
    libraries = ("no_such_library",)
    install = "pip install no-such"


def test_a_backend_of_ones_own_writes_for_others(tmp_path):
    notes = Plain().export(saved(), tmp_path / "net.plain")
    assert notes[0] == "Names only."
    assert "not run" in notes[1]


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    path = tmp_path / "net.plain"
    with pytest.raises(UsageError, match=r"'plain' gives other logits .*nothing was written"):
        Wrong().export(saved(), path)
    assert list(tmp_path.iterdir()) == []
    notes = Wrong(scale=1 + 1e-6).export(saved(), path)
    assert "logits differ from the network's by at most" in notes[1]


def test_a_file_with_values_that_are_no_numbers_is_not_kept(tmp_path):
    network = saved()
    with torch.no_grad():
        network.model[0].bias.fill_(torch.nan)
    with pytest.raises(UsageError, match="gives other logits"):
        backends.create("packed").export(network, tmp_path / "net.safetensors")


def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path):
    with pytest.raises(MissingDependencyError, match=r"needs no_such_library(?s:.*)pip install no"):
        Missing().export(saved(), tmp_path / "net.plain")
