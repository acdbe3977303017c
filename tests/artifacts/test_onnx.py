import contextlib
import json
import sys

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="pip install 'robustprune[onnx]'")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


from robustprune.artifacts.backends.onnx import Onnx, digest_of, session  # noqa: E402
from robustprune.artifacts.checksummed import KEY  # noqa: E402
from robustprune.artifacts.reading import read_model  # noqa: E402
from robustprune.artifacts.saved import SavedModel  # noqa: E402
from robustprune.errors import MissingDependencyError, UsageError  # noqa: E402
from tests.artifacts.nets import ARCHITECTURES, DIGITS, document, own_network, saved  # noqa: E402

NETS = {
    "batch norm": ARCHITECTURES["cnn_small_bn"],
    "residual": {"name": "resnet18_cifar", "num_classes": 10, "in_chans": 3, "image_size": 32},
    "attention": {"name": "test_vit", "num_classes": 10, "in_chans": 3, "image_size": 160},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    Onnx().export(saved(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_onnx_runtime_gives_the_same_logits_for_any_batch(tmp_path, options):
    before, path = saved(options), tmp_path / "net.onnx"
    Onnx().export(before, path)
    running, after = session(path), read_model(path)
    for batch in (1, 5, 32):
        images = torch.rand(batch, options["in_chans"], *[options["image_size"]] * 2)
        (found,) = running.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            expected = before.model(images)
            assert torch.allclose(after.model(images), expected, atol=1e-5)
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


@pytest.mark.slow
def test_it_is_valid_and_holds_its_metadata(digits):
    proto = onnx.load(digits)
    onnx.checker.check_model(proto, full_check=True)
    (entry,) = [e for e in proto.metadata_props if e.key == KEY]
    assert json.loads(entry.value)["model"] == DIGITS


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.9])
def test_a_truncated_file_is_refused(digits, tmp_path, share):
    data = digits.read_bytes()
    (tmp_path / "net.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UsageError):
        read_model(tmp_path / "net.onnx")


def rewritten(digits, tmp_path, change):
    """The same file with a change, and a digest that fits it."""
    proto = onnx.load(digits)
    seal = proto.metadata_props.pop()
    assert seal.key == f"{KEY}.sha256"
    change(proto)
    content = proto.SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content + digest_of(content))
    return tmp_path / "net.onnx"


@pytest.mark.slow
def test_a_file_rewritten_without_a_change_is_read(digits, tmp_path):
    assert read_model(rewritten(digits, tmp_path, lambda proto: None)).metadata == document()


def test_a_file_that_another_program_wrote_anew_is_refused(digits, tmp_path):
    proto = onnx.load(digits)
    proto.graph.node[0].name = "another"
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="does not have the digest"):
        read_model(tmp_path / "net.onnx")


class Net(torch.nn.Module):
    """Small, with a tensor that no operator uses."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)
        self.register_buffer("unused", torch.arange(3))

    def forward(self, images):
        return self.fc(images.flatten(1))


@pytest.mark.slow
def test_tensors_that_the_graph_does_not_use_are_in_the_file(tmp_path):
    net, options = Net().eval(), own_network("net_with_more", Net)
    net.unused += 5
    Onnx().export(SavedModel(net, {}, document(options)), tmp_path / "net.onnx")
    found = read_model(tmp_path / "net.onnx").model
    assert found.unused.tolist() == [5, 6, 7]
    assert torch.equal(found.fc.weight, net.fc.weight)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run_or_are_refused(tmp_path, dtype):
    before = SavedModel(Net().eval().to(dtype), {}, document())
    with contextlib.suppress(UsageError):
        Onnx().export(before, tmp_path / "net.onnx")
        return
    assert list(tmp_path.iterdir()) == []


class Branching(torch.nn.Module):
    """One that the exporter cannot translate."""

    def forward(self, images):
        return images.flatten(1)[:, :10] * (1 if images.sum() > 0 else 2)


@pytest.mark.slow
def test_a_network_that_cannot_be_translated_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be written as ONNX"):
        Onnx().export(SavedModel(Branching(), {}, document()), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def props(text):
    def change(proto):
        del proto.metadata_props[:]
        if text is not None:
            entry = proto.metadata_props.add()
            entry.key, entry.value = KEY, text

    return change


def less_weights(proto):
    del proto.graph.initializer[0]


@pytest.mark.parametrize(
    "change",
    [
        *(props(text) for text in (None, "{", "[]", "{}", '{"masked": [], "model": 3}')),
        props('{"masked": ["nothing"], "model": {"name": "cnn_digits"}}'),
        props('{"masked": [], "model": {"name": "cnn_small"}}'),
        less_weights,
    ],
)
def test_a_file_of_others_or_a_damaged_one_is_refused(digits, tmp_path, change):
    with pytest.raises(UsageError):
        read_model(rewritten(digits, tmp_path, change))


def test_other_files_are_never_read_on_behalf_of_one(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def elsewhere(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "secret.bin"

    (tmp_path / "secret.bin").write_bytes(bytes(32 * 25 * 4))
    with pytest.raises(UsageError, match="in other files, which are not read"):
        read_model(rewritten(digits, tmp_path, elsewhere))


def test_a_missing_library_is_named_with_the_line_that_installs_it(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'robustprune\[onnx\]'"):
        Onnx().export(saved(), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'robustprune\[onnx\]'"):
        read_model(digits)
