"""Paths that nothing can be opened by, at every key and option that takes one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from ..pipeline import tiny
from ..test_paths import USELESS
from .conftest import Command, Said

KEYS = {
    "extends": ("extends", lambda path: {"extends": path}),
    "extends, listed": ("extends.0", lambda path: {"extends": [path]}),
    "imports": ("imports.0", lambda path: {"imports": [f"{path}.py"]}),
    "data.root": ("data.root", lambda path: {"data": {"name": "cifar10", "root": path}}),
    "data.extra.path": ("data.extra.path", lambda path: {"data": {"extra": {"path": path}}}),
    "model.weights": ("model.weights", lambda path: {"model": {"weights": path}}),
}
WORDS = [
    "check",
    "show",
    "import-hydra",
    "compare",
    "list models --recipe",
    "run tiny.yaml --out",
    "report run --out",
    "export dense.safetensors --out",
    "evaluate dense.safetensors --state",
    "evaluate dense.safetensors --json",
    "evaluate dense.safetensors --images",
    "evaluate dense.safetensors --data cifar10 --root",
]


@pytest.fixture(autouse=True)
def loop(here: Path) -> None:
    (here / "loop").symlink_to("loop")
    (here / "loop.py").symlink_to("loop.py")


def assert_told(said: Said) -> None:
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert "fault of robustprune" not in said.err


@pytest.mark.parametrize("key", KEYS)
def test_the_key_of_a_recipe_and_the_reason_are_named(
    key: str, command: Command, here: Path
) -> None:
    place, change = KEYS[key]
    for kind in ("empty", "NUL", "surrogate of a byte", "circle"):
        text, reason = USELESS[kind]
        document: dict[str, Any] = tiny.document({"data": {"subset": None}}, change(text))
        (here / "a.yaml").write_text(json.dumps(document))
        said = command("check", "a.yaml")
        assert_told(said)
        if text:  # "" is the folder of the recipe, and ".py" a name
            assert f"a.yaml:1: {place}: " in said.err
            assert reason in said.err


@pytest.mark.parametrize("words", WORDS)
def test_the_option_and_the_reason_are_named(words: str, command: Command, here: Path) -> None:
    text, reason = USELESS["circle"]
    said = command(*words.split(), text)
    assert_told(said)
    assert reason in said.err
    assert "error: argument " in said.err


def test_the_variable_is_named(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, reason = USELESS["surrogate of a byte"]
    monkeypatch.setenv("ROBUSTPRUNE_DATA", text)
    data = {"name": "imagefolder", "root": "pictures", "subset": None}
    said = command("check", tiny.write(here, {"data": data}))
    assert_told(said)
    assert "ROBUSTPRUNE_DATA: " in said.err
    assert reason in said.err


def test_a_dataset_names_what_it_cannot_look_into(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    data = {"name": "imagefolder", "root": str(here), "subset": None}
    recipe = tiny.write(here, {"data": data})
    monkeypatch.setattr(Path, "is_dir", refused)
    said = command("check", recipe)
    assert_told(said)
    assert "dataset 'imagefolder': " in said.err
    assert "/train: permission denied. Name another folder: data.root." in said.err
