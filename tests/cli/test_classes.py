"""A network is judged on folders by the names of its classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import save_model
from robustprune.models import create_model
from robustprune.seeding import fork

from ..datasets.test_classes import write
from ..pipeline import tiny
from .conftest import Command

MODEL = {"name": "cnn_small", "num_classes": 4, "in_chans": 3, "image_size": 32}
MODEL |= {"mean": [0.0] * 3, "std": [1.0] * 3}
DATA = "{name: imagefolder, size: 32, resize: 32, workers: 0, root: pictures}"
FOLDERS = {"name": "imagefolder", "root": "pictures", "size": 32, "resize": 32, "workers": 0}
FOLDERS |= {"subset": None}
NAMES = ["d", "c", "b", "a"]


@pytest.fixture
def network(here: Path) -> Path:
    """A network that says 'c' to every image, its second class."""
    with fork(0, "classes"):
        model = create_model(**MODEL).eval()
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    save_model(
        here / "net.safetensors", model, masks={}, metadata={"model": MODEL, "classes": NAMES}
    )
    torch.save(model.state_dict(), here / "net.pt")
    return here / "net.safetensors"


def clean(command: Command, *words: str | Path) -> float:
    said = command("evaluate", *words, "--evaluator", "clean", "--json", "out.json")
    assert said.code == 0, said
    accuracy: float = json.loads(Path("out.json").read_text())["metrics"]["clean"]
    return accuracy


@pytest.mark.slow
def test_three_of_its_classes_are_found_by_their_names(
    command: Command, network: Path, here: Path
) -> None:
    write(here / "pictures", val="abc")
    assert clean(command, network, "--data", DATA) == pytest.approx(1 / 3)
    write(here / "others", val="ab")
    assert clean(command, network, "--data", DATA, "--root", "others") == 0


@pytest.mark.slow
def test_folders_of_other_names_are_refused_until_they_are_told(
    command: Command, network: Path, here: Path
) -> None:
    write(here / "pictures", val="aef")
    said = command("evaluate", network, "--data", DATA)
    assert said.code == 2
    assert "the network's 4 classes are d, c, b, a" in said.err
    assert "e, f not among them" in said.err
    assert clean(command, network, "--data", DATA, "--classes", "a,e,f,d") == pytest.approx(1 / 3)


def test_a_network_without_names_is_not_judged_on_fewer_classes(
    command: Command, network: Path, here: Path
) -> None:
    write(here / "pictures", val="abc")
    words = ["net.pt", "--arch", "{name: cnn_small, num_classes: 4}", "--data", DATA]
    said = command("evaluate", *words)
    assert said.code == 2
    assert "tells 4 classes apart and the dataset has 3" in said.err
    assert "--classes" in said.err
    (here / "names.txt").write_text("\n".join(NAMES))
    for classes in ("d,c,b,a", "names.txt"):
        assert clean(command, *words, "--classes", classes) == pytest.approx(1 / 3)
        assert clean(command, "net.pt", "--arch", "cnn_small", *words[3:], "--classes", classes)


@pytest.mark.parametrize(
    "words",
    [
        *(["--data", DATA, "--classes", text] for text in ("a", "a,b,a", "imagenet-7", "")),
        *(["--data", text] for text in ("[a]", "{size: 3}", "{name: digits, sise: 3}")),
        *(["--data", text] for text in ("{name: [", "1")),
    ],
    ids=str,
)
def test_what_names_no_classes_or_no_dataset_is_refused(
    words: list[str], command: Command, network: Path
) -> None:
    said = command("evaluate", network, *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "--classes" in said.err or "--classes" not in words


def test_a_pretrained_network_knows_folders_by_their_wordnet_ids(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of timm's weights, of which there are none here: those that were drawn say anything."""
    monkeypatch.setattr("robustprune.models.pretrained.load_into", lambda *_: None)
    write(here / "pictures", val=["n15075141", "n01440764"])
    data = "{name: imagefolder, root: pictures, size: 32, resize: 32, workers: 0}"
    assert clean(command, "test_resnet.r160_in1k", "--data", data) in (0, 0.5, 1)
    write(here / "others", val=["tench", "goldfish"])
    said = command("evaluate", "test_resnet.r160_in1k", "--data", data, "--root", "others")
    assert said.code == 2
    assert "the network's 1,000 classes are n01440764" in said.err


@pytest.mark.slow
def test_a_run_keeps_the_names_and_is_judged_by_them(command: Command, here: Path) -> None:
    write(here / "pictures", train="abc", val="abc")
    changes = {"data": FOLDERS, "model": {"name": "cnn_small"}, "evaluate": []}
    recipe = tiny.write(here, changes, {"prune": None, "finetune": None})
    assert command("run", recipe, "--quiet", "--out", "run").code == 0
    model = here / "run" / "dense" / "model.safetensors"
    assert read_model(model).metadata["classes"] == ["a", "b", "c"]
    assert "classes: '3: a, b, c'" in command("show", model).out
    for form, out in (("packed", "x.packed.safetensors"), ("onnx", "x.onnx")):
        assert command("export", model, "--format", form, "--out", out).code == 0
        card = Path(f"{out}.md").read_text()
        assert "Classes in the order of its outputs, 3: a, b, c." in card
    assert "3: a, b, c" in command("show", "x.onnx").out
    write(here / "other", val="bcd")
    said = command("evaluate", model, "--root", "other", "--evaluator", "clean")
    assert said.code == 2
    assert "d not among them" in said.err
    write(here / "less", val="bc")
    assert command("evaluate", model, "--root", "less", "--evaluator", "clean").code == 0


@pytest.mark.slow
def test_weights_of_other_or_shuffled_classes_need_a_last_layer_of_their_own(
    command: Command, network: Path, here: Path
) -> None:
    changes = {"data": FOLDERS, "model": {"name": "cnn_small", "weights": "net.safetensors"}}
    trained = {"pretrain": tiny.RECIPE["pretrain"]}
    for folders in ("abce", "abcd"):  # the labels of the latter would be shuffled
        write(here / "pictures", train=folders, val=folders)
        said = command("check", tiny.write(here, changes, {"pretrain": None}))
        assert said.code == 2
        assert "the network's 4 classes are d, c, b, a" in said.err
        assert command("check", tiny.write(here, changes, trained)).code == 0
        shutil.rmtree(here / "pictures")
    write(here / "pictures", train="abcd", val="abcd")
    named = {"data": {"classes": NAMES}}
    assert command("check", tiny.write(here, changes, {"pretrain": None}, named)).code == 0
