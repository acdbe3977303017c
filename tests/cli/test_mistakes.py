"""What people get wrong: one screen that says what it is and what to do, and exit code 2."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune.pipeline import RunResult

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


# A change of the tiny recipe, and what must be said about it.
RECIPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "misspelt key": (
        {"pretrain": {"epoch": 3}},
        ("tiny.yaml:", "pretrain.epoch: unknown key 'epoch'. Did you mean 'epochs'?"),
    ),
    "misspelt section": ({"objectiv": {"name": "pgd"}}, ("Did you mean 'objective'?",)),
    "missing section": ({"model": None}, ("model: this key is required",)),
    "wrong type": ({"pretrain": {"epochs": "many"}}, ("pretrain.epochs", "got 'many'")),
    "a list for a mapping": ({"pretrain": [1]}, ("pretrain: expected a mapping", "epochs")),
    "density 0": ({"prune": {"densities": [0]}}, ("prune.densities.0", "greater than 0")),
    "density 1.5": ({"prune": {"densities": [0.1, 1.5]}}, ("prune.densities.1", "less than or")),
    "no density": ({"prune": {"densities": []}}, ("prune.densities", "1 or more")),
    "steps 0": ({"objective": {"steps": 0}}, ("objective.steps", "greater than or equal to 1")),
    "eps negative": ({"objective": {"eps": "-8/255"}}, ("objective.eps", "greater than or")),
    "lr 0": ({"pretrain": {"optimizer": {"lr": 0}}}, ("pretrain.optimizer.lr", "greater than 0")),
    "division by zero": ({"objective": {"eps": "8/0"}}, ("objective.eps", "divides by zero")),
    "batch 0": ({"pretrain": {"batch_size": 0}}, ("pretrain.batch_size", "greater than or")),
    "seed negative": ({"seed": -1}, ("seed", "greater than or equal to 0")),
    "name with a slash": ({"name": "a/b"}, ("name", "a/b")),
    "unknown model": ({"model": {"name": "resnet19"}}, ("model.name", "Did you mean 'resnet")),
    "unknown objective": ({"objective": "trade"}, ("Did you mean 'trades'?", "imports:")),
    "unknown pruner": ({"prune": {"methods": ["hydro"]}}, ("prune.methods.0", "'hydra'")),
    "unknown evaluator": ({"evaluate": [{"name": "pdg"}]}, ("evaluate.0", "Did you mean 'pgd'?")),
    "unknown dataset": ({"data": {"name": "cifar"}}, ("data.name", "Did you mean 'cifar10'?")),
    "unknown optimizer": (
        {"pretrain": {"optimizer": {"name": "sdg"}}},
        ("pretrain.optimizer.name", "Did you mean 'sgd'?"),
    ),
    "unknown schedule": ({"pretrain": {"schedule": "cosin"}}, ("Did you mean 'cosine'?",)),
    "unknown attack": (
        {"evaluate": [{"name": "torchattacks", "attack": "PDG", "eps": 0.1}]},
        ("evaluate.0", "no attack 'PDG'", "PGD"),
    ),
    "wrong argument of an attack": (
        {"evaluate": [{"name": "torchattacks", "attack": "PGD", "args": {"step": 1}, "eps": 0.1}]},
        ("evaluate.0", "no argument 'step'", "steps"),
    ),
    "wrong option of a model": (
        {"model": {"args": {"width": 2}}},
        ("model 'cnn_digits' cannot be built with", "width=2", "model.args"),
    ),
    "best without validation": (
        {"pretrain": {"select": "best"}},
        ("pretrain.select", "set data.validation"),
    ),
    "a network twice": (
        {"prune": {"methods": ["hydra", "hydra"]}},
        ("prune.methods", "'hydra'", "label"),
    ),
    "a metric twice": ({"evaluate": ["clean", "clean"]}, ("evaluate", "'clean'", "label")),
    "too few classes": ({"model": {"num_classes": 5}}, ("model.num_classes is 5", "10 classes")),
    "wrong channels": ({"model": {"in_chans": 3}}, ("model.in_chans is 3", "images have 1")),
    "statistics of another image": ({"model": {"mean": [0, 0, 0]}}, ("mean", "1 input channels")),
    "images too small": (
        {"model": {"name": "test_vit"}},
        ("model 'test_vit' does not take the dataset's images of 1×8×8", "Choose another model"),
    ),
    "more images than there are": ({"data": {"subset": 5000}}, ("5000", "1437")),
    "a root for what has no files": ({"data": {"root": "data"}}, ("leave out 'root'",)),
    "imports missing": ({"imports": ["mine.py"]}, ("imports.0", "no file 'mine.py'", "looked for")),
    "module missing": ({"imports": ["no_such_module"]}, ("no module 'no_such_module'", ".py")),
    "tracking scheme": (
        {"tracking": {"enabled": True, "uri": "sqlit:///runs.db"}},
        ("unknown scheme 'sqlit'", "Did you mean 'sqlite'?"),
    ),
    "tracking without a host": (
        {"tracking": {"enabled": True, "uri": "http:///mlflow"}},
        ("names no host", "http://host:port"),
    ),
}


@pytest.mark.parametrize("mistake", RECIPES)
def test_a_mistake_in_a_recipe(mistake: str, command: Command, here: Path) -> None:
    changes, fragments = RECIPES[mistake]
    said = command("run", tiny.write(here, changes))
    assert_told(said, *fragments)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("mistake", ["misspelt key", "images too small", "too few classes"])
def test_check_finds_it_too(mistake: str, command: Command, here: Path) -> None:
    changes, fragments = RECIPES[mistake]
    said = command("check", tiny.write(here, changes))
    assert_told(said, *fragments)


def test_all_mistakes_are_told_at_once_with_their_lines(command: Command, here: Path) -> None:
    changes = ("misspelt key", "steps 0", "unknown optimizer", "unknown pruner")
    path = tiny.write(here, *(RECIPES[name][0] for name in changes))
    said = command("run", path, "--set", "finetune.epochs=no")
    assert_told(said, "5 problems:", "--set finetune.epochs=no: finetune.epochs")
    for name in changes[:1]:
        assert RECIPES[name][1][1] in said.err
    lines = path.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, start=1) if line.strip() == "epoch: 3")
    assert f"tiny.yaml:{number}: pretrain.epoch" in said.err


def test_however_many_mistakes_fit_on_a_screen(command: Command, here: Path) -> None:
    said = command("run", tiny.write(here, {f"key{n}": n for n in range(100)}))
    assert_told(said, "100 problems:", "more")


TEXTS: dict[str, tuple[str | bytes | None, tuple[str, ...]]] = {
    "missing": (None, ("cannot read the recipe", "recipes/quickstart.yaml")),
    "empty": ("", ("is not a recipe", "found nothing")),
    "a list": ("- 1\n- 2\n", ("is not a recipe", "key: value")),
    "not YAML": ("name: [1, 2\nseed: 0", ("a.yaml:2", "not YAML")),
    "not text": (b"\xff\xfe\x00\x01", ("is not a recipe",)),
    "a key twice": ("name: a\nseed: 1\nseed: 2\n", ("seed: the key stands twice",)),
    "a tag that runs code": (
        "name: !!python/object/apply:os.system ['touch executed']",
        ("not YAML", "python/object/apply"),
    ),
}


@pytest.mark.parametrize("mistake", TEXTS)
def test_a_file_that_is_no_recipe(mistake: str, command: Command, here: Path) -> None:
    content, fragments = TEXTS[mistake]
    if content is not None:
        (here / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_told(command("run", "a.yaml"), "a.yaml", *fragments)
    assert not (here / "executed").exists()


def test_a_folder_is_no_recipe(command: Command, here: Path) -> None:
    assert_told(command("run", here), "cannot read the recipe", "Is a directory")


@pytest.mark.parametrize(
    ("assignment", "fragments"),
    [
        ("seed", ("expected key=value",)),
        ("=1", ("expected key=value",)),
        ("seed=[1", ("--set seed=[1", "not YAML")),
        ("prune.densities.7=0.5", ("there is no '7'",)),
        ("prune.densities.first=0.5", ("there is no 'first'",)),
        ("seed.of=1", ("--set seed.of=1",)),
        ("pretrain.epoch=3", ("--set pretrain.epoch=3", "Did you mean 'epochs'?")),
    ],
)
def test_a_wrong_override(
    assignment: str, fragments: tuple[str, ...], command: Command, here: Path
) -> None:
    assert_told(command("run", tiny.write(here), "--set", assignment), *fragments)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("raise KeyError('oops')", ("importing 'mine.py' raised KeyError", "mine.py:1", "oops")),
        ("def f(:", ("importing 'mine.py' raised SyntaxError",)),
        ("import no_such_module", ("raised ModuleNotFoundError", "no_such_module")),
        (
            "import robustprune as rp\n\n\n@rp.objectives.register('pgd')\n"
            "class Mine(rp.Objective):\n    pass\n",
            ("'pgd' is already registered", "another name"),
        ),
    ],
)
def test_imports_that_raise(
    text: str, fragments: tuple[str, ...], command: Command, here: Path
) -> None:
    (here / "mine.py").write_text(text)
    said = command("run", tiny.write(here, {"imports": ["mine.py"]}))
    assert_told(said, "imports.0", *fragments)


def test_data_that_is_not_there(command: Command, here: Path) -> None:
    data = {"name": "cifar10", "root": "photos", "download": False, "subset": None}
    said = command("run", tiny.write(here, {"data": data}))
    assert_told(said, "not found", str(here / "photos"), "parquet", "ROBUSTPRUNE_DATA")


def test_a_damaged_data_file(command: Command, here: Path) -> None:
    (here / "photos").mkdir()
    (here / "photos" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    data = {"name": "cifar10", "root": "photos", "download": False, "subset": None}
    said = command("run", tiny.write(here, {"data": data}))
    assert_told(said, "train-00000-of-00001.parquet", "not a readable parquet file")


def test_a_diverging_training(command: Command, here: Path) -> None:
    path = tiny.write(here, DENSE, {"pretrain": {"optimizer": {"lr": 1e8}}})
    said = command("run", path, "--quiet", "--out", "run")
    assert_told(
        said, "the loss of pretrain epoch 1", "--set pretrain.optimizer.lr=1e+07", "warm-up"
    )


def test_a_folder_that_is_taken(command: Command, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").touch()
    assert_told(command("run", tiny.write(here), "--out", "out"), "out is not empty", "--resume")


def test_a_folder_that_is_a_file(command: Command, here: Path) -> None:
    (here / "out").touch()
    assert_told(command("run", tiny.write(here), "--out", "out"), "out is a file", "--out")
    assert_told(command("run", tiny.write(here), "--out", "out/run"), "cannot write to", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(command: Command, here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    said = command("run", tiny.write(here), "--out", "locked/run")
    assert_told(said, "cannot write to locked/run", "Permission denied", "--out")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the disk has become read-only"),
    ],
)
def test_a_disk_that_takes_no_more(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    said = command("run", tiny.write(here, DENSE), "--quiet", "--out", "run")
    assert_told(said, f"{reason} (run/dense/model.safetensors)", "resume")


def test_nothing_to_resume(command: Command, here: Path) -> None:
    assert_told(command("run", tiny.write(here), "--resume"), "nothing to resume", "--out")


def test_resuming_with_another_recipe(command: Command, here: Path, small: RunResult) -> None:
    folder = shutil.copytree(small.folder, here / "run")
    path = tiny.write(here, tiny.SMALL, {"evaluate": tiny.RECIPE["evaluate"]}, {"seed": 3})
    said = command("run", path, "--resume", "--out", folder)
    assert_told(said, "made by another recipe", "seed: was 0, is 3", "without --resume")


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "a.yaml", "--max-steps", "0"],
        ["run", "a.yaml", "--max-steps", "some"],
        ["walk"],
        [],
        ["evaluate", "a.safetensors", "--seed", "x"],
        ["certify", "a.safetensors", "--sigma", "loud"],
        ["certify", "a.safetensors", "--n", "1.5"],
        ["verify", "a.safetensors", "--eps", "2/0"],
        ["verify", "a.safetensors", "--bounds", ","],
        ["list", "objectives", "p", "q"],
    ],
)
def test_words_that_mean_nothing(words: list[str], command: Command) -> None:
    said = command(*words)
    assert said.code == 2
    assert said.out == ""
    assert "usage: robustprune" in said.err
    assert "error: " in said.err


class Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("verb", ["evaluate", "certify", "show"])
@pytest.mark.parametrize("mistake", ["missing", "truncated", "pickle", "empty", "a folder"])
def test_a_file_that_is_no_model(
    verb: str, mistake: str, command: Command, here: Path, small: RunResult
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
    said = command(verb, path)
    assert_told(said, path.name)
    assert not (here / "executed").exists()


def test_a_model_file_whose_mask_does_not_fit(
    command: Command, here: Path, small: RunResult
) -> None:
    from robustprune.artifacts.sealed import read_sealed, write_sealed

    metadata, tensors = read_sealed(small.folder / "hydra-0.1" / "model.safetensors")
    tensors["0.weight"] = tensors["0.weight"] + 1
    write_sealed(here / "model.safetensors", tensors, metadata)
    assert_told(command("evaluate", here / "model.safetensors"), "0.weight has weights that its")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--evaluator", "pdg"], ("Did you mean 'pgd'?",)),
        (["--evaluator", "pgd:eps"], ("NAME:KEY=VALUE", "'eps' has no =")),
        (["--evaluator", "pgd:epsilon=1"], ("Did you mean 'eps'?",)),
        (["--evaluator", "pgd:eps=-1"], ("eps", "greater than 0")),
        (["--data", "digit"], ("Did you mean 'digits'?",)),
        (["--root", "somewhere"], ("leave out 'root'",)),
        (["--json", "file/a.json"], ("cannot write file/a.json: Not a directory",)),
        (["--images", "file/a.csv"], ("cannot write file/a.csv: Not a directory",)),
        (["--images", "."], ("the ending '' says no format", ".csv or .parquet")),
        (["--images", "images.txt"], ("ending '.txt'", ".csv or .parquet")),
        (["--images", "folder.csv"], ("cannot write folder.csv: it is a folder",)),
        (["--state", "file"], ("--state file: cannot be written (Not a directory)",)),
        (["--state", "file/below"], ("--state file/below: cannot be written", "another folder")),
    ],
)
def test_evaluating_in_a_way_that_cannot_be(
    words: list[str],
    fragments: tuple[str, ...],
    command: Command,
    here: Path,
    small: RunResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told before anything is computed."""
    monkeypatch.setattr("robustprune.pipeline.evaluation.judge", None)
    (here / "file").touch()
    (here / "folder.csv").mkdir()
    said = command("evaluate", small.folder / "dense" / "model.safetensors", *words)
    assert_told(said, *fragments)


def test_showing_what_is_no_run(command: Command, here: Path) -> None:
    assert_told(command("show", here), "is no run folder", "results.json")
    for damaged in ("[]", '{"recipe": "a"}', '{"recipe": "a", "seed": 0, "networks": [{}]}'):
        (here / "results.json").write_text(damaged)
        assert_told(command("show", here), "results.json was not written by a run")
    (here / "results.json").write_text("{")
    assert_told(command("show", here), "results.json cannot be read")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["objective"], ("no family 'objective'", "Did you mean 'objectives'?")),
        (["models", "resnett"], ("none of the models", "resnet")),
        (["pruners", "hydro"], ("none of the pruners has 'hydro'", "Did you mean 'hydra'?")),
        (["objectives", "--recipe", "none.yaml"], ("cannot read the recipe none.yaml",)),
    ],
)
def test_listing_what_is_not_there(
    words: list[str], fragments: tuple[str, ...], command: Command, here: Path
) -> None:
    assert_told(command("list", *words), *fragments)
