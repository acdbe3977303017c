from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from robustprune.models import create_model
from robustprune.pipeline import RunResult

from .conftest import Command
from .test_mistakes import assert_told

QUICK = ("--seconds", "0.01", "--threads", "1")


@pytest.fixture
def pruned(small: RunResult) -> Path:
    return small.folder / "hydra-0.1" / "model.safetensors"


@pytest.mark.slow
def test_it_times_every_engine_at_every_batch_and_shows_size_and_layers(
    command: Command, here: Path, pruned: Path
) -> None:
    pytest.importorskip("onnxruntime")
    threads = torch.get_num_threads()
    said = command("bench", pruned, "--batch", "1,3", *QUICK, "--json", "found/speed.json")
    assert said.code == 0
    document = json.loads((here / "found" / "speed.json").read_text())
    assert document["image"] == [1, 8, 8]
    assert document["threads"] == 1
    assert (
        document["measures"]["flops"]["macs_sparse"] < document["measures"]["flops"]["macs_dense"]
    )
    assert [one["batch"] for one in document["batches"]] == [1, 3]
    for one in document["batches"]:
        assert set(one["engines"]) == {"torch", "onnxruntime", "sparse"}
        for engine in one["engines"].values():
            rate = 1000 * one["batch"] / engine["milliseconds"]
            assert engine["images_per_second"] == pytest.approx(rate)
        assert one["engines"]["torch"]["speedup"] == 1
    for text in ("macs_sparse", "bytes_packed", "ONNX Runtime", "sparse kernels", "64×32×3×3"):
        assert text in said.out
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_it_says_what_could_not_be_measured(
    command: Command, here: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = command("bench", pruned, "--batch", "2", *QUICK, "--json", "speed.json")
    assert said.code == 0
    (line,) = (one for one in said.out.splitlines() if "not measured" in one)
    assert line.startswith("ONNX Runtime")
    assert "pip install" in line
    (one,) = json.loads((here / "speed.json").read_text())["batches"]
    assert "pip install" in one["engines"]["onnxruntime"]["missing"]
    assert one["engines"]["sparse"]["milliseconds"] > 0


@pytest.mark.slow
def test_a_plain_state_dict_is_timed_with_its_architecture(command: Command, here: Path) -> None:
    model = create_model("cnn_digits", in_chans=1, num_classes=10, image_size=8)
    torch.save(model.state_dict(), "plain.pt")
    words = ("--arch", "cnn_digits", "--data", "digits", "--batch", "1")
    assert command("bench", "plain.pt", *words, *QUICK).code == 0
    assert_told(command("bench", "plain.pt", *QUICK), "--arch")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "expected a whole number from 1 on, got '0'"),
        (["--batch", "1;2"], "'1;2'"),
        (["--batch", ","], "expected names with commas"),
        (["--threads", "half"], "expected a number such as 3 or 2/255, got 'half'"),
        (["--seconds", "long"], "expected a number"),
        (["--seconds", "-1"], "expected a number above 0, got '-1'"),
        (["--device", "cpu"], "unrecognized arguments: --device cpu"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense(words: list[str], said: str, command: Command) -> None:
    found = command("bench", "model.safetensors", *words)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_a_file_that_cannot_be_read_or_written(command: Command, here: Path, pruned: Path) -> None:
    assert_told(command("bench", here / "none.safetensors"), "none.safetensors")
    (here / "folder").mkdir()
    assert_told(
        command("bench", pruned, "--json", "folder"), "cannot write folder", "it is a folder"
    )
