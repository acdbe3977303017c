import contextlib
import json
import sys

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="pip install 'robustprune[onnx]'")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from robustprune.artifacts import onnx as module  # noqa: E402
from robustprune.artifacts.container import KEY  # noqa: E402
from robustprune.artifacts.onnx import read_onnx, save_onnx, session  # noqa: E402
from robustprune.artifacts.reading import read_model  # noqa: E402
from robustprune.artifacts.saved import SavedModel  # noqa: E402
from robustprune.errors import MissingDependencyError, UsageError  # noqa: E402
from tests.artifacts.nets import ARCHITECTURES, DIGITS, document, pruned  # noqa: E402

NETS = {
    "digits": DIGITS,
    "normalised": ARCHITECTURES["normalised"],
    "batch norm": ARCHITECTURES["cnn_small_bn"],
    "residual": {"name": "wrn_28_4", "num_classes": 10, "in_chans": 3, "image_size": 32},
    "attention": {"name": "test_vit", "num_classes": 10, "in_chans": 3, "image_size": 160},
}


def saved(options: dict = DIGITS) -> SavedModel:
    return SavedModel(*pruned(options), document(options))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    save_onnx(path, saved())
    return path


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_onnx_runtime_gives_the_same_logits_for_any_batch(tmp_path, options):
    before, path = saved(options), tmp_path / "net.onnx"
    assert save_onnx(path, before) < 1e-4
    running = session(str(path))
    for batch in (1, 5, 32):
        images = torch.rand(batch, options["in_chans"], *[options["image_size"]] * 2)
        (found,) = running.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            expected = before.model(images)
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_it_is_read_as_a_network_of_pytorch_again(tmp_path, options):
    before, path = saved(options), tmp_path / "net.onnx"
    save_onnx(path, before)
    after = read_model(path)
    assert after.metadata == before.metadata
    for name, tensor in before.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(after.model.state_dict()[name], tensor), name
    assert all(torch.equal(after.masks[name], mask) for name, mask in before.masks.items())
    assert not after.model.training


def test_it_is_valid_and_holds_its_metadata(digits):
    proto = onnx.load(digits)
    onnx.checker.check_model(proto, full_check=True)
    (entry,) = [e for e in proto.metadata_props if e.key == KEY]
    assert json.loads(entry.value)["model"] == DIGITS


@pytest.mark.parametrize("share", [0, 0.2, 0.9])
def test_a_truncated_file_is_refused(digits, tmp_path, share):
    data = digits.read_bytes()
    (tmp_path / "net.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UsageError):
        read_onnx(tmp_path / "net.onnx")


def rewritten(digits, tmp_path, change):
    """The same file with a change, and a digest that fits it."""
    proto = onnx.load(digits)
    seal = proto.metadata_props.pop()
    assert seal.key == f"{KEY}.sha256"
    change(proto)
    content = proto.SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content + module._seal(onnx, content))
    return tmp_path / "net.onnx"


def test_a_file_rewritten_without_a_change_is_read(digits, tmp_path):
    assert read_onnx(rewritten(digits, tmp_path, lambda proto: None)).metadata == document()


def test_a_file_that_another_program_wrote_anew_is_refused(digits, tmp_path):
    proto = onnx.load(digits)
    proto.graph.node[0].name = "another"
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="does not have the digest"):
        read_onnx(tmp_path / "net.onnx")


class Net(torch.nn.Module):
    """Small, with a tensor that no operator uses."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)
        self.register_buffer("unused", torch.arange(3))

    def forward(self, images):
        return self.fc(images.flatten(1))


def test_tensors_that_the_graph_does_not_use_are_in_the_file(tmp_path, monkeypatch):
    net = Net().eval()
    net.unused += 5
    save_onnx(tmp_path / "net.onnx", SavedModel(net, {}, document()))
    monkeypatch.setattr("robustprune.artifacts.saved.create_model", lambda **_: Net())
    found = read_onnx(tmp_path / "net.onnx").model
    assert found.unused.tolist() == [5, 6, 7]
    assert torch.equal(found.fc.weight, net.fc.weight)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run_or_are_refused(tmp_path, dtype):
    before = SavedModel(Net().eval().to(dtype), {}, document())
    with contextlib.suppress(UsageError):
        assert save_onnx(tmp_path / "net.onnx", before) < 1e-4
        return
    assert list(tmp_path.iterdir()) == []


def test_images_that_the_network_does_not_take_are_told(tmp_path):
    before = saved()
    before.metadata["model"] = {**DIGITS, "image_size": 9}
    with pytest.raises(UsageError, match=r"does not take images of 1×9×9.*--data NAME"):
        save_onnx(tmp_path / "net.onnx", before)


def test_an_export_is_tried_with_several_sizes_of_a_batch(tmp_path, monkeypatch):
    seen, whole = [], session

    class Watched:
        def __init__(self, content) -> None:
            self.inner = whole(content)

        def run(self, outputs, inputs):
            seen.append(len(inputs["images"]))
            return self.inner.run(outputs, inputs)

    monkeypatch.setattr(module, "session", Watched)
    save_onnx(tmp_path / "net.onnx", saved())
    assert len(set(seen)) > 1
    assert 1 in seen


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
        read_onnx(rewritten(digits, tmp_path, change))


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
        read_onnx(rewritten(digits, tmp_path, elsewhere))


def test_an_export_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    class Liar:
        def run(self, outputs, inputs):
            return [torch.zeros(len(inputs["images"]), 10).numpy() + 3]

    monkeypatch.setattr(module, "session", lambda content: Liar())
    with pytest.raises(UsageError, match=r"gives other logits than PyTorch.*nothing was written"):
        save_onnx(tmp_path / "net.onnx", saved())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'robustprune\[onnx\]'"):
        save_onnx(tmp_path / "net.onnx", saved())
