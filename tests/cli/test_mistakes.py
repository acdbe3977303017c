"""What people get wrong: one screen that says what it is and what to do, and exit code 2."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path

import pytest

from robustprune.pipeline import RunResult

from ..artifacts.planted import Planted
from ..pipeline import tiny
from .conftest import Command, Said

DENSE = {"prune": None, "finetune": None, "evaluate": []}


def assert_told(said: Said, *fragments: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 25
    for fragment in fragments:
        assert fragment in said.err


# Changes of the tiny recipe, and what must be said about them.
RECIPES = {
    "pretrain.epoch=3": "pretrain.epoch: unknown key 'epoch'. Did you mean 'epochs'?",
    "objectiv=pgd": "Did you mean 'objective'?",
    "model=null": "model: expected a mapping",
    "pretrain.epochs=many": "pretrain.epochs: expected a whole number; got 'many'",
    "pretrain=[1]": "pretrain: expected a mapping",
    "prune.densities=[0]": "prune.densities.0: should be greater than 0",
    "prune.densities=[0.1, 1.5]": "prune.densities.1: should be less than or",
    "prune.densities=[]": "at least 1 item",
    "objective.eps=8/0": "objective.eps: '8/0' divides by zero",
    "pretrain.batch_size=0": "pretrain.batch_size: should be greater than or equal to 1",
    "name=a/b": "'a/b'",
    "model.name=resnet19": "model.name: unknown model 'resnet19'. Did you mean 'resnet",
    "objective=trade": "Did you mean 'trades'? Choices:|imports:",
    "prune.methods=[hydro]": "prune.methods.0|'hydra'",
    "evaluate=[pdg]": "evaluate.0|Did you mean 'pgd'?",
    "data.name=cifar": "data.name|Did you mean 'cifar10'?",
    "pretrain.optimizer.name=sdg": "pretrain.optimizer.name|Did you mean 'sgd'?",
    "pretrain.schedule=cosin": "Did you mean 'cosine'?",
    "evaluate=[{name: torchattacks, attack: PDG, eps: 0.1}]": "evaluate.0|no attack 'PDG'|PGD",
    "evaluate=[{name: torchattacks, attack: PGD, args: {step: 1}, eps: 0.1}]": "no argument 'step'",
    "model.args.width=2": "model 'cnn_digits' cannot be built with|width=2|model.args",
    "pretrain.select=best": "pretrain.select|set data.validation",
    "prune.methods=[hydra, hydra]": "prune.methods|'hydra'|label",
    "evaluate=[clean, clean]": "evaluate|'clean'|label",
    "model.num_classes=5": "model.num_classes is 5|10 classes",
    "model.in_chans=3": "model.in_chans is 3|images have 1",
    "model.mean=[0, 0, 0]": "mean|1 input channels",
    "model.name=test_vit": "'test_vit' does not take the dataset's images of 1×8×8|Choose another",
    "data.subset=5000": "5000|1437",
    "data.root=data": "leave out 'root'",
    "imports=[mine.py]": "imports.0|no file 'mine.py'|looked for",
    "imports=[no_such_module]": "no module 'no_such_module'|.py",
    "tracking={enabled: true, uri: 'sqlit:///a.db'}": "scheme 'sqlit'|Did you mean 'sqlite'?",
    "tracking={enabled: true, uri: 'http:///mlflow'}": "names no host|http://host:port",
    "seed": "expected key=value",
    "=1": "expected key=value",
    "seed=[1": "--set seed=[1|not YAML",
    "prune.densities.7=0.5": "there is no '7'",
    "prune.densities.first=0.5": "there is no 'first'",
    "seed.of=1": "--set seed.of=1",
}


@pytest.mark.parametrize("change", RECIPES)
def test_a_mistake_in_a_recipe(change: str, command: Command, here: Path) -> None:
    verb = "check" if change.startswith("model") else "run"
    said = command(verb, tiny.write(here), "--set", change)
    assert_told(said, *RECIPES[change].split("|"))
    assert not (here / "runs").exists()


def test_all_mistakes_are_told_at_once_with_their_lines(command: Command, here: Path) -> None:
    methods = {"methods": ["hydro"]}
    changes = {"model": None, "objective": {"steps": 0}, "pretrain": {"epoch": 3}, "prune": methods}
    path = tiny.write(here, changes)
    said = command("run", path, "--set", "finetune.epochs=no")
    assert_told(said, "5 problems:", "model: this key is required", "prune.methods.0")
    assert "--set finetune.epochs=no: finetune.epochs" in said.err
    lines = path.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, start=1) if line.strip() == "epoch: 3")
    assert f"tiny.yaml:{number}: pretrain.epoch: unknown key 'epoch'" in said.err


def test_however_many_mistakes_fit_on_a_screen(command: Command, here: Path) -> None:
    said = command("run", tiny.write(here, {f"key{n}": n for n in range(100)}))
    assert_told(said, "100 problems:", "more")


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a recipe|found nothing"),
    "a list": (b"- 1\n- 2\n", "is not a recipe|key: value"),
    "not YAML": (b"name: [1, 2\nseed: 0", "a.yaml:2|not YAML"),
    "not text": (b"\xff\xfe\x00\x01", "is not a recipe"),
    "a key twice": (b"name: a\nseed: 1\nseed: 2\n", "seed: the key stands twice"),
    "code": (b"name: !!python/object/apply:os.system ['touch executed']", "not YAML|os.system"),
}


@pytest.mark.parametrize("mistake", TEXTS)
def test_a_file_that_is_no_recipe(mistake: str, command: Command, here: Path) -> None:
    content, fragments = TEXTS[mistake]
    (here / "a.yaml").write_bytes(content)
    assert_told(command("run", "a.yaml"), "a.yaml", *fragments.split("|"))
    assert not (here / "executed").exists()


def test_a_recipe_that_cannot_be_read(command: Command, here: Path) -> None:
    told = command("run", "a.yaml")
    assert_told(told, "cannot read the recipe a.yaml", "`robustprune recipes`")
    assert_told(command("run", here), "cannot read the recipe", "Is a directory")


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("raise KeyError('oops')", "importing 'mine.py' raised KeyError|mine.py:1|oops"),
        ("def f(:", "importing 'mine.py' raised SyntaxError"),
        ("import no_such_module", "raised ModuleNotFoundError|no_such_module"),
        (
            "import robustprune as rp\n\n\n@rp.objectives.register('pgd')\n"
            "class Mine(rp.Objective):\n    pass\n",
            "'pgd' is already registered|another name",
        ),
    ],
)
def test_imports_that_raise(text: str, fragments: str, command: Command, here: Path) -> None:
    (here / "mine.py").write_text(text)
    said = command("run", tiny.write(here, {"imports": ["mine.py"]}))
    assert_told(said, "imports.0", *fragments.split("|"))


def test_data_that_is_not_there_or_damaged(command: Command, here: Path) -> None:
    data = {"name": "cifar10", "root": "photos", "download": False, "subset": None}
    recipe = tiny.write(here, {"data": data})
    said = command("run", recipe)
    assert_told(said, "not found", str(here / "photos"), "parquet", "ROBUSTPRUNE_DATA")
    (here / "photos").mkdir()
    (here / "photos" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    said = command("run", recipe)
    assert_told(said, "train-00000-of-00001.parquet", "not a readable parquet file")


def test_a_diverging_training(command: Command, here: Path) -> None:
    path = tiny.write(here, DENSE, {"pretrain": {"optimizer": {"lr": 1e8}}})
    said = command("run", path, "--quiet", "--out", "run")
    assert_told(
        said, "the loss of pretrain epoch 1", "--set pretrain.optimizer.lr=1e+07", "warm-up"
    )


def test_a_folder_that_is_taken_or_a_file(command: Command, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").touch()
    assert_told(command("run", tiny.write(here), "--out", "out"), "out is not empty", "--resume")
    (here / "file").touch()
    assert_told(command("run", tiny.write(here), "--out", "file"), "file is a file", "--out")
    assert_told(command("run", tiny.write(here), "--out", "file/run"), "cannot write to", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(command: Command, here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    said = command("run", tiny.write(here), "--out", "locked/run")
    assert_told(said, "cannot write to locked/run", "Permission denied", "--out")


def test_a_disk_that_takes_no_more(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    said = command("run", tiny.write(here, DENSE), "--quiet", "--out", "run")
    assert_told(said, "the disk is full (run/dense/model.safetensors)", "resume")


def test_nothing_to_resume(command: Command, here: Path, small: RunResult) -> None:
    assert_told(command("run", tiny.write(here), "--resume"), "nothing to resume", "--out")
    folder = shutil.copytree(small.folder, here / "run")
    path = tiny.write(here, tiny.SMALL, {"evaluate": tiny.RECIPE["evaluate"]}, {"seed": 3})
    said = command("run", path, "--resume", "--out", folder)
    assert_told(said, "made by another recipe", "seed: was 0, is 3", "without --resume")


@pytest.mark.parametrize(
    "words",
    [
        "run",
        "run a.yaml --max-steps 0",
        "run a.yaml --max-steps some",
        "walk",
        "",
        "evaluate a.safetensors --seed x",
        "certify a.safetensors --sigma loud",
        "certify a.safetensors --n 1.5",
        "verify a.safetensors --eps 2/0",
        "verify a.safetensors --bounds ,",
        "list objectives p q",
        "compare mlflow:",
    ],
)
def test_words_that_mean_nothing(words: str, command: Command) -> None:
    said = command(*words.split())
    assert (said.code, said.out) == (2, "")
    assert "usage: robustprune" in said.err
    assert "error: " in said.err


@pytest.mark.parametrize("mistake", ["missing", "truncated", "pickle", "empty", "a folder"])
def test_a_file_that_is_no_model(
    mistake: str, command: Command, here: Path, small: RunResult
) -> None:
    path = here / ("model.pt" if mistake == "pickle" else "model.safetensors")
    whole = (small.folder / "dense" / "model.safetensors").read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "pickle": pickle.dumps(Planted(here / "executed")),
        "empty": b"",
    }
    if mistake in contents:
        path.write_bytes(contents[mistake])
    elif mistake == "a folder":
        path.mkdir()
    assert_told(command("evaluate", path), path.name)
    assert not (here / "executed").exists()


def test_a_model_file_whose_mask_does_not_fit(
    command: Command, here: Path, small: RunResult
) -> None:
    from robustprune.artifacts.checksummed import ModelFile, write_checksummed

    file = ModelFile(small.folder / "hydra-0.1" / "model.safetensors")
    metadata, tensors = file.checksummed()
    tensors["0.weight"] = tensors["0.weight"] + 1
    write_checksummed(here / "model.safetensors", tensors, metadata)
    assert_told(command("evaluate", here / "model.safetensors"), "0.weight has weights that its")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("--evaluator pdg", "Did you mean 'pgd'?"),
        ("--evaluator pgd:epsilon=1", "Did you mean 'eps'?"),
        ("--evaluator pgd:eps=-1", "eps|greater than 0"),
        ("--data digit", "Did you mean 'digits'?"),
        ("--root somewhere", "leave out 'root'"),
        ("--json file/a.json", "cannot write file/a.json: |Name another file."),
        ("--images file/a.csv", "cannot write file/a.csv: "),
        ("--images .", "the ending '' says no format|.csv or .parquet"),
        ("--images images.txt", "ending '.txt'|.csv or .parquet"),
        ("--images folder.csv", "cannot write folder.csv: it is a folder"),
        ("--state file", "--state file: cannot be written (Not a directory)"),
        ("--state file/below", "--state file/below: cannot be written|another folder"),
    ],
)
def test_evaluating_in_a_way_that_cannot_be(
    words: str,
    fragments: str,
    command: Command,
    here: Path,
    small: RunResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told before anything is computed."""
    monkeypatch.setattr("robustprune.pipeline.evaluate.judge", None)
    (here / "file").touch()
    (here / "folder.csv").mkdir()
    said = command("evaluate", small.folder / "dense" / "model.safetensors", *words.split())
    assert_told(said, *fragments.split("|"))


def test_an_evaluator_s_option_without_a_value(command: Command) -> None:
    said = command("evaluate", "a.safetensors", "--evaluator", "pgd:eps")
    assert (said.code, said.out) == (2, "")
    for fragment in ("--evaluator", "NAME:KEY=VALUE", "got 'pgd:eps'", "'eps' has no ="):
        assert fragment in said.err


def test_showing_what_is_no_run(command: Command, here: Path) -> None:
    assert_told(command("show", here), "is no run folder", "results.json")
    for damaged in ("{", "[]", '{"recipe": "a"}', '{"recipe": "a", "seed": 0, "networks": [{}]}'):
        (here / "results.json").write_text(damaged)
        assert_told(command("show", here), "results.json was not written by a run")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("objective", "no family 'objective'|Did you mean 'objectives'?"),
        ("models resnett", "none of the models|resnet"),
        ("pruners hydro", "none of the pruners has 'hydro'|Did you mean 'hydra'?"),
        ("objectives --recipe none.yaml", "cannot read the recipe none.yaml"),
    ],
)
def test_listing_what_is_not_there(
    words: str, fragments: str, command: Command, here: Path
) -> None:
    assert_told(command("list", *words.split()), *fragments.split("|"))
