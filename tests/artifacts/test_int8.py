"""Networks in int8: the file decides, its gradient is straight through, nothing is carried over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import fx
from torch.nn.functional import cross_entropy

import robustprune as rp
from robustprune import datasets, evaluators
from robustprune.adapters.bounds import Bounds
from robustprune.artifacts import backends
from robustprune.artifacts.backends.onnx import digest_of
from robustprune.artifacts.card import card_of
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from robustprune.pipeline.evaluate import evaluate_saved
from robustprune.tracking import Silent
from tests.artifacts.nets import ARCHITECTURES, saved

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

ABOUT = {
    "data": {"name": "digits"},
    "metrics": {"clean": 0.875, "clean_n": 100, "clean_interval": [0.8, 0.9]},
    "evaluate": [{"name": "clean"}, {"name": "pgd", "eps": 0.1, "steps": 3}, {"name": "verified"}],
}


@pytest.fixture(scope="module")
def network() -> SavedModel:
    made = saved(ARCHITECTURES["normalised"])
    return replace(made, metadata=made.metadata | ABOUT)


@pytest.fixture(scope="module")
def path(network: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "net.int8.onnx"
    notes = backends.create("int8", samples=64).export(network, path)
    assert "nothing that was measured or certified" in notes[0]
    return path


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_its_logits_are_those_of_onnx_runtime(path: Path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], {"images": images().numpy()})
    model = read_model(path).model
    assert torch.equal(model(images()), torch.from_numpy(expected))
    wanted = images().requires_grad_()
    assert torch.equal(model(wanted).detach(), torch.from_numpy(expected))


def test_its_gradient_is_the_float_networks_at_its_own_logits(path: Path):
    model, labels = read_model(path).model, torch.arange(5)
    one, other = images().requires_grad_(), images().requires_grad_()
    values = model(one)
    (found,) = torch.autograd.grad(cross_entropy(values, labels), one)
    outward = (values.softmax(1) - torch.eye(10)[labels]).detach() / 5  # of the cross-entropy
    (expected,) = torch.autograd.grad((model.source(other) * outward).sum(), other)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0


def test_its_weights_are_near_and_pruned_ones_stay_zero(network: SavedModel, path: Path):
    again = read_model(path)
    for name, weight in network.model.state_dict().items():
        near = again.model.source.state_dict()[name]
        assert (near - weight).abs().max() <= weight.abs().max() / 127 + 1e-6, name
    for name, mask in network.masks.items():
        assert not (again.masks[f"source.{name}"] & ~mask).any()


def test_nothing_that_was_measured_is_carried_over(network: SavedModel, path: Path):
    about = read_model(path).metadata
    assert "metrics" not in about
    assert [one["name"] for one in about["evaluate"]] == ["clean", "pgd", "transfer"]
    card = card_of(network, path, backends.create("int8"), [])
    assert "Nothing was measured" in card
    assert "0.875" not in card


def judged(path: Path, *parts: evaluators.Evaluator) -> dict[str, float]:
    tasks = {"net": (read_model(path), datasets.create("digits"), list(parts))}
    return evaluate_saved(tasks, console=Silent())["net"].metrics


def test_attacks_judge_it_and_bounds_are_refused_by_name(path: Path):
    size = {"samples": 20, "batch_size": 20}
    found = judged(
        path,
        evaluators.create("clean", **size),
        evaluators.create("pgd", eps=0.1, steps=3, label="pgd", **size),
        evaluators.create("transfer", eps=0.1, steps=3, label="transfer", **size),
        evaluators.create("smoothing", n=20, n0=10, **size),
    )
    assert found["pgd"] <= found["clean"]
    assert found["transfer"] <= found["clean"]
    for name in ("ibp", "crown_ibp", "crown", "verified"):
        with pytest.raises(UsageError, match=rf"^{name}: the network is quantised.*smoothing"):
            judged(path, evaluators.create(name, eps=0.01, **size))


@pytest.mark.parametrize("wrap", [lambda model: model, torch.nn.Sequential], ids=["bare", "inside"])
def test_python_refuses_bounds_too_and_judges_the_file_itself(path: Path, wrap: Any):
    model = wrap(read_model(path).model)
    with pytest.raises(UsageError, match=r"^verified: the network is quantised"):
        rp.certify(model, {"name": "digits"}, eps=0.01, samples=5, quiet=True)
    with pytest.raises(UsageError, match="quantised to int8 already"):
        rp.prune(model, "hydra", {"name": "digits"}, "benign", 0.5, quiet=True)
    found = rp.evaluate(model, {"name": "digits"}, "clean", samples=30, sparse="on", quiet=True)
    assert found["clean"] == judged(path, evaluators.create("clean", samples=30))["clean"]


def test_it_cannot_be_traced_as_constants_nor_as_its_float_network(path: Path):
    model = read_model(path).model
    with pytest.raises(UsageError, match="cannot be traced"):
        Bounds(model, images(1))
    with pytest.raises(TypeError, match="cannot be traced"):
        fx.symbolic_trace(model)


def resealed(path: Path, to: Path, change: Callable[[Any], object]) -> Path:
    """A file of the same digest's kind, whose graph somebody has changed."""
    proto = onnx.load_model_from_string(path.read_bytes()[: -len(digest_of(b""))])
    change(proto)
    content = proto.SerializeToString()
    to.write_bytes(content + digest_of(content))
    return to


def test_a_graph_of_another_network_than_its_weights_is_refused(path: Path, tmp_path: Path):
    def twice(proto: Any) -> None:
        scale = onnx.numpy_helper.from_array(np.full(10, 50, np.float32), "fifty")
        proto.graph.initializer.append(scale)
        last = next(node for node in proto.graph.node if "logits" in node.output)
        last.output[:] = ["before"]
        proto.graph.node.append(onnx.helper.make_node("Mul", ["before", "fifty"], ["logits"]))

    with pytest.raises(UsageError, match="gradient of another network"):
        read_model(resealed(path, tmp_path / "a.int8.onnx", twice))


def test_a_graph_that_draws_or_lacks_a_tensor_is_refused(path: Path, tmp_path: Path):
    def draws(proto: Any) -> None:
        node = onnx.helper.make_node("RandomNormal", [], ["x"], shape=[1])
        proto.graph.node.append(node)

    def lacks(proto: Any) -> None:
        first = next(one for one in proto.graph.node if one.op_type == "DequantizeLinear")
        first.input[1] = "nowhere"
        node = onnx.helper.make_node(
            "DequantizeLinear", [proto.graph.initializer[0].name, "no"], []
        )
        proto.graph.node.append(node)

    for change, words in ((draws, "runs 'RandomNormal'"), (lacks, "damaged")):
        with pytest.raises(UsageError, match=words):
            read_model(resealed(path, tmp_path / "a.int8.onnx", change))


def test_the_calibration_images_are_not_taken_for_those_that_it_learned_from(
    network: SavedModel, tmp_path: Path
):
    about = network.metadata | {"data": {"name": "cifar10"}, "calibration": {"name": "digits"}}
    other = replace(network, metadata=about)
    notes = backends.create("int8", samples=10**6).export(other, tmp_path / "a.int8.onnx")
    found = read_model(tmp_path / "a.int8.onnx").metadata
    assert (found["data"], "calibration" in found) == ({"name": "cifar10"}, False)
    learned = len(datasets.create("digits").load(seed=0, test=False).train)
    assert f"on {learned} training images of digits" in notes[0]


def test_it_is_not_quantised_twice_and_a_changed_file_is_refused(path: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="quantised already"):
        backends.create("packed").export(read_model(path), tmp_path / "a.packed.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b.int8.onnx").write_bytes(content)
    with pytest.raises(UsageError):
        read_model(tmp_path / "b.int8.onnx")


def test_calibration_images_must_be_named(tmp_path: Path):
    with pytest.raises(UsageError, match="--data NAME"):
        backends.create("int8").export(saved(), tmp_path / "a.int8.onnx")
