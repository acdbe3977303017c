"""Bringing a network in, and shipping one: import-hydra, export, and files of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from robustprune.artifacts import backends
from robustprune.artifacts.reading import read_model
from robustprune.models import create_model
from robustprune.pipeline import RunResult

from ..artifacts.checkpoints import Reference
from ..artifacts.planted import Planted
from ..artifacts.test_hydra import reference
from .conftest import Command

DIGITS: dict[str, Any] = {"name": "cnn_digits", "in_chans": 1, "num_classes": 10, "image_size": 8}


@pytest.fixture
def pruned(small: RunResult, here: Path) -> Path:
    path = here / "net.safetensors"
    path.write_bytes((small.folder / "hydra-0.1" / "model.safetensors").read_bytes())
    return path


@pytest.fixture
def plain(here: Path) -> Path:
    torch.save(create_model(**DIGITS).state_dict(), here / "plain.pt")
    return here / "plain.pt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "net.packed.safetensors"),
        (["--format", "dense"], "net.state.safetensors"),
        (["net.onnx"], "net.onnx"),
        (["--out", "other.pt"], "other.pt"),
    ],
    ids=str,
)
def test_a_network_is_exported_with_a_card_and_judged_from_there(
    command: Command, pruned: Path, small: RunResult, options: list[str], name: str
) -> None:
    said = command("export", pruned, *options)
    assert (said.code, said.err) == (0, "")
    assert f"written to {name if name in options else pruned.with_name(name)}" in "".join(
        said.out.split("\n")
    )
    assert (pruned.parent / f"{name}.md").read_text().startswith("# tiny: hydra-0.1\n")
    arch = ["--arch", "cnn_digits", "--data", "digits"] if name.endswith(".pt") else []
    judged = command("evaluate", pruned.parent / name, *arch, "--evaluator", "clean:samples=100")
    assert judged.code == 0
    assert f"{100 * small.network('hydra-0.1')['metrics']['clean']:.1f}" in judged.out


def test_a_folder_for_the_hub(command: Command, pruned: Path, here: Path) -> None:
    said = command("export", pruned, "--hub", "hub")
    assert (said.code, said.err) == (0, "")
    assert "hf upload NAME hub" in said.out
    assert "name: pgd" in (here / "hub" / "README.md").read_text()
    told(command("export", pruned, "--hub", "hub", "--format", "onnx"), "packed, dense, timm")
    told(command("export", pruned, "net.onnx", "--hub", "hub"), "--hub DIR names the place")


def test_half_precision(command: Command, pruned: Path) -> None:
    said = command("export", pruned, "--format", "packed:values=fp16", "--out", "half.safetensors")
    assert said.code == 0
    assert "rounded to half precision" in said.out
    assert read_model(Path("half.safetensors")).metadata["values"] == "fp16"


OWN = """
from robustprune import Backend, backends


@backends.register("names")
class Names(Backend):
    \"\"\"Names of tensors, for nobody.\"\"\"

    suffixes = (".names",)
    between: str = " "
    \"\"\"Stands between two.\"\"\"

    def write(self, network, path):
        path.write_text(self.between.join(network.model.state_dict()))
        return []
"""


def test_a_backend_of_ones_own(
    command: Command, pruned: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(
        command("export", pruned, "--format", "names"),
        "unknown backend",
        "dense, int8, onnx, packed",
    )
    monkeypatch.setattr(backends.registry, "_parts", dict(backends.registry._parts))
    (here / "own.py").write_text(OWN)
    (here / "own.yaml").write_text("imports: [own.py]\n")
    said = command("export", pruned, "--recipe", "own.yaml", "--format", "names:between=;")
    assert (said.code, said.err) == (0, "")
    assert "The file was not run" in said.out
    assert (here / "net.names").read_text().startswith("0.weight;0.bias;")
    assert "format names." in (here / "net.names.md").read_text()
    told(command("evaluate", "net.names"), "a format that is not read again")


def test_a_network_is_shown_with_its_sizes_and_its_metrics(command: Command, pruned: Path) -> None:
    command("export", pruned)
    shown = [command("show", path) for path in (pruned, "net.packed.safetensors")]
    assert [said.code for said in shown] == [0, 0]
    assert shown[0].out == shown[1].out
    origin = yaml.safe_load(shown[0].out.split("prunable layers")[0])
    assert origin["metrics"]["clean_n"] == 100
    rows = {line.split()[0]: line.split() for line in shown[0].out.splitlines() if line.strip()}
    assert rows["all"] == ["all", "2,947", "29,472", "0.09999"]
    assert rows["dense"][1] == "118,312"
    assert int(rows["packed"][1].replace(",", "")) < 16_000


def test_a_checkpoint_of_the_reference_is_imported_and_judged(command: Command, here: Path) -> None:
    options = {**DIGITS, "name": "cnn_small", "image_size": 28}
    Reference("mnist_model", options).write(here / "best.pth.tar", prefix="module.")
    said = command("import-hydra", "best.pth.tar", "--density", "0.1", "--data", "mnist")
    assert (said.code, said.err) == (0, "")
    assert "written to best.safetensors" in said.out
    saved = read_model(here / "best.safetensors")
    assert saved.metadata["data"] == {"name": "mnist"}
    assert saved.metadata["imported"]["best_prec1"] == 51.25
    shown = command("show", "best.safetensors")
    assert "best_prec1: 51.25" in shown.out
    exported = command("export", "best.safetensors")
    assert exported.code == 0
    assert "was not measured here" in (here / "best.packed.safetensors.md").read_text()


def test_a_plain_state_dict_is_judged_under_a_named_architecture(
    command: Command, plain: Path
) -> None:
    words = ["--data", "digits", "--samples", "20"]
    for arch in ("cnn_digits", "{name: cnn_digits, num_classes: 10}"):
        assert command("evaluate", plain, "--arch", arch, *words).code == 0
    verified = command("verify", plain, "--arch", "cnn_digits", "--eps", "0.01", *words)
    assert verified.code == 0
    assert "verified" in verified.out
    certified = command("certify", plain, "--arch", "cnn_digits", "--n", "100", *words)
    assert certified.code == 0
    shown = command("show", plain, "--arch", "cnn_digits", "--data", "digits")
    assert "29,472" in shown.out


def test_checkpoints_of_one_name_are_imported_side_by_side(command: Command, here: Path) -> None:
    for density in ("0.1", "0.01"):
        reference().write(here / f"m.k{density}.pth.tar")
        said = command("import-hydra", f"m.k{density}.pth.tar", "--density", density)
        assert f"written to m.k{density}.safetensors" in said.out
    assert read_model(here / "m.k0.1.safetensors").metadata["density"] == 0.1


def told(said: Any, *texts: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    for text in texts:
        assert text in " ".join(said.err.split())


def test_mistakes_about_files_of_others(command: Command, plain: Path, pruned: Path) -> None:
    told(command("evaluate", plain), "does not name an architecture", "--arch NAME")
    told(command("evaluate", plain, "--arch", "cnn_digit", "--data", "digits"), "cnn_digits")
    told(command("evaluate", plain, "--arch", "cnn_digits"), "for how many classes", "--data")
    told(command("evaluate", plain, "--arch", "{name: [", "--data", "digits"), "--arch")
    told(
        command("evaluate", plain, "--arch", "{name: cnn_digits, size: 3}", "--data", "digits"),
        "--arch.size: unknown key 'size'",
    )
    told(
        command("evaluate", plain, "--arch", "cnn_small", "--data", "digits"),
        "does not fit model 'cnn_small'",
        "5.weight has shape",
    )
    told(
        command("evaluate", pruned, "--arch", "cnn_small", "--data", "digits"),
        "name is 'cnn_digits' in the file and 'cnn_small' here",
    )
    told(
        command(
            "evaluate", plain, "--arch", "{name: cnn_digits, weights: a.pt}", "--data", "digits"
        ),
        "'weights' is an option of recipes",
    )
    told(command("show", pruned.parent, "--arch", "cnn_digits"), "--arch is for a file of weights")
    told(command("evaluate", "nothing.pt"), "there is no model file nothing.pt")
    told(
        command("evaluate", "test_resnet", "--data", "digits"),
        "weights tell 1000 classes apart, and 'digits' has 10",
        "weights: pretrained",
    )
    told(command("evaluate", "cnn_small"), "has no pretrained weights", "Name a file of weights")
    told(command("evaluate", "net.txt"), "there is no model file net.txt")


def test_mistakes_about_exports(command: Command, pruned: Path, here: Path) -> None:
    told(command("export", "none.safetensors"), "there is no model file")
    told(command("export", pruned, "--out", pruned), "is the network itself")
    told(command("export", pruned, "--out", "net.zip"), "no format's files end so", ".onnx onnx")
    told(command("export", pruned, "a.safetensors"), "--format", ".packed.safetensors packed")
    told(command("export", pruned, "a.onnx", "--out", "b.onnx"), "name one file")
    (here / "file").write_text("")
    told(command("export", pruned, "--out", "file/net.packed.safetensors"), "cannot write")
    told(command("export", pruned, "--format", "onxx"), "unknown backend 'onxx'", "mean 'onnx'?")
    told(
        command("export", pruned, "--format", "packed:values=fp8,size=3"),
        "2 problems",
        "--format.values: should be 'fp32' or 'fp16'; got 'fp8'",
        "--format.size: unknown key 'size'",
    )
    told(command("export", pruned, "--format", "packed:values"), "'values' has no =")
    told(command("export", pruned, "--values", "fp16"), "--values", "--format packed:values=fp16")
    told(command("export", pruned, "--out", f"{'a' * 300}.packed.safetensors"), "too long")
    (here / "a.packed.safetensors.md").mkdir()
    told(command("export", pruned, "--out", "a.packed.safetensors"), "a.packed.safetensors.md: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(command: Command, pruned: Path, here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    told(command("export", pruned, "--out", "locked/a.packed.safetensors"), "Permission denied")


def test_mistakes_about_checkpoints(command: Command, here: Path) -> None:
    reference().write(here / "a.pth.tar")
    told(command("import-hydra", "a.pth.tar"), "holds scores", "--density")
    told(command("import-hydra", "a.pth.tar", "--density", "99"), "not in (0, 1]")
    told(command("import-hydra", "a.pth.tar", "--density", "0.1", "--arch", "vgg"), "vgg16_bn")
    told(command("import-hydra", "a.pth.tar", "--density", "0.1", "--data", "cifar"), "cifar10")
    (here / "b.safetensors").symlink_to("a.pth.tar")
    again = ("import-hydra", "a.pth.tar", "--density", "0.1", "--out", "b.safetensors")
    told(command(*again), "is the checkpoint itself")
    (here / "b.safetensors").unlink()
    told(command("import-hydra", "none.pth.tar"), "there is no model file none.pth.tar")
    target = here / "planted"
    reference().write(here / "evil.pth.tar", optimizer=Planted(target))
    told(command("import-hydra", "evil.pth.tar", "--density", "0.1"), "refused", "mkdir")
    torch.save({"state_dict": Planted(target)}, here / "evil.pt")
    told(command("evaluate", "evil.pt", "--arch", "cnn_digits", "--data", "digits"), "refused")
    assert not target.exists()
    assert sorted(path.name for path in here.iterdir()) == ["a.pth.tar", "evil.pt", "evil.pth.tar"]
