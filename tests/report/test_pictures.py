from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from robustprune.artifacts.reading import read_model
from robustprune.datasets import create
from robustprune.report import pictures
from robustprune.types import Threat

from . import made


def test_the_classes_below_the_images_are_the_networks(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[pictures.Row] = []

    def keep(*arguments: Any) -> pictures.Row:
        rows.append(row(*arguments))
        return rows[-1]

    row = pictures._row
    monkeypatch.setattr(pictures, "_row", keep)
    section = pictures.section([made.group(run)])
    assert section.missing == []
    assert [r.network for r in rows] == ["dense", "hydra-0.01", "magnitude-0.01"]
    test = create("digits").load(seed=0, train=False).test
    images, labels = next(iter(test.ordered(6, limit=6)))
    for r in rows:
        model = read_model(run / r.network / "model.safetensors").model
        assert (r.images - images).abs().max() <= 0.1 + 1e-6
        assert r.clean.equal(model(images).argmax(1))
        assert r.attacked.equal(model(r.images).argmax(1))
    (figure,) = section.figures
    assert Image.open(BytesIO(figure.png)).width > 1000
    assert "6 test images (" + ", ".join(map(str, labels.tolist())) in figure.alt
    assert f"dense takes them for {', '.join(map(str, rows[0].attacked.tolist()))}" in figure.alt


def _mnist(document: dict[str, Any]) -> None:
    document["params"]["data"] = {"name": "mnist", "root": "none", "download": True}


def _own(document: dict[str, Any]) -> None:
    document["params"]["data"] = {"name": "mine"}


def _no_attack(document: dict[str, Any]) -> None:
    document["params"]["evaluate"] = [{"name": "clean"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_mnist, "the dataset's files are not here"),
        (_own, "unknown dataset 'mine'"),
        (_no_attack, "the recipe has no attack"),
    ],
)
def test_what_cannot_be_shown_is_said(
    change: made.Change, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: Any, **options: Any) -> None:
        pytest.fail("something was downloaded")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", fetch)
    path = made.folder(tmp_path / "run", change=change)
    section = pictures.section([made.group(path)])
    assert section.figures == []
    (told,) = section.missing
    assert words in told


def test_without_model_files_there_are_no_images(tmp_path: Path) -> None:
    section = pictures.section([made.group(made.folder(tmp_path / "run", files=False))])
    assert section.missing == ["tiny: the model files are not there."]


def _larger(document: dict[str, Any]) -> None:
    document["params"]["evaluate"][1]["norm"] = "l2"


def test_the_ball_is_that_of_the_first_attack(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_larger)
    assert pictures._threat(made.group(path)) == Threat("l2", 0.1)
