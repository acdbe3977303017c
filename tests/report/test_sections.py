"""What is drawn are the numbers of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import StepPatch

from robustprune.artifacts.reading import read_model
from robustprune.evaluators.accuracy import interval
from robustprune.report import accuracy, curves, images, masks
from robustprune.report.figures import Section

from . import made

BALL = "ℓ∞ ε = 0.1".replace(" ", "\N{NO-BREAK SPACE}")


def axes_of(section: Section, canvases: list[Canvas]) -> dict[str, Axes]:
    """The axes of a section's figures, by the figures' names."""
    pairs = zip(section.figures, canvases, strict=True)
    return {figure.name: canvas.axes[0] for figure, canvas in pairs}


def series(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The error bars of axes by label: x and y."""
    lines = {container.get_label(): container.lines[0] for container in axes.containers}
    return {name: (x.get_xdata().tolist(), x.get_ydata().tolist()) for name, x in lines.items()}


def test_accuracy_against_density(run: Path, undrawn: list[Canvas]) -> None:
    section = accuracy.section([made.group(run)])
    figures = axes_of(section, undrawn)
    metrics = ("clean", "pgd", "pgd-0-2", "smoothing")
    assert list(figures) == [f"accuracy-tiny-{metric}" for metric in metrics]
    axes = figures["accuracy-tiny-pgd"]
    found = series(axes)
    assert found["dense"] == ([1.0], [75.0])
    assert found["hydra"][1] == [62.5, 50.0]
    assert found["hydra"][0] == pytest.approx([0.1, 0.01], rel=0.05)
    assert found["magnitude"][1] == [62.5, 25.0]
    assert axes.get_xscale() == "log"
    bars = next(c for c in axes.containers if c.get_label() == "hydra").lines[2][0]
    assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(15)  # 0.1 below, 0.05 above
    assert "dense 75.0 % at 1; hydra 62.5 % at 0.1, 50.0 % at 0.01" in section.figures[1].alt
    assert section.figures[1].title == f"tiny: pgd, {BALL}"


def _paper(document: dict[str, Any]) -> None:
    numbers = {"dense": 0.5, "hydra-0.1": 0.4, "hydra-0.5": 0.45, "ours-nan": 0.1}
    document["params"]["paper"] = {"source": "Table 1", "metrics": {"pgd": numbers, "era": {}}}


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path, undrawn: list[Canvas]) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_paper)
    section = accuracy.section([made.group(path)])
    axes = axes_of(section, undrawn)["accuracy-tiny-pgd"]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["hydra, paper"].get_xdata().tolist() == [0.5, 0.1]
    assert drawn["hydra, paper"].get_ydata().tolist() == [45.0, 40.0]
    assert drawn["dense, paper"].get_ydata().tolist() == [50.0]
    assert "ours, paper" not in drawn
    assert "hydra in the paper 45.0 % at 0.5, 40.0 % at 0.1" in section.figures[1].alt
    assert section.missing == ["tiny: the paper's 'era' was not measured here."]
    assert "Hollow markers" in section.text[-1]


def test_each_seed_is_a_dot(tmp_path: Path, undrawn: list[Canvas]) -> None:
    paths = [made.folder(tmp_path / str(s), s, files=False, more=s / 10) for s in (0, 1)]
    axes = axes_of(accuracy.section([made.group(*paths)]), undrawn)["accuracy-tiny-pgd"]
    dots = [line.get_ydata() for line in axes.lines if line.get_marker() == "."]
    assert [75.0, 85.0] in [pytest.approx(list(values)) for values in dots]


def test_a_security_curve_is_about_the_same_images(
    run: Path, tmp_path: Path, undrawn: list[Canvas]
) -> None:
    section = accuracy.security([made.group(run)])
    found = series(axes_of(section, undrawn)["security-tiny-pgd-0-01"])
    # clean errs on the first 3 of HYDRA's 10 images, so on 3 of the first 8
    assert found["hydra"] == ([0.0, 0.1, 0.2], [62.5, 50.0, 25.0])
    assert found["dense"] == ([0.0, 0.1, 0.2], [87.5, 75.0, 50.0])
    assert (len(undrawn), section.missing) == (2, [])
    undrawn.clear()  # without images, the clean accuracy of others is left out
    section = accuracy.security([made.group(made.folder(tmp_path / "run", files=False))])
    found = series(axes_of(section, undrawn)["security-tiny-pgd-0-01"])
    assert found["hydra"] == ([0.1, 0.2], [50.0, 25.0])


def _one_radius(document: dict[str, Any]) -> None:
    del document["params"]["evaluate"][2]


def test_one_radius_is_no_curve(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_one_radius)
    section = accuracy.security([made.group(path)])
    assert section.figures == []
    assert "two or more radii" in section.missing[0]


def test_certified_accuracy_by_hand() -> None:
    one = np.array(made.RADII)
    value, low, high = accuracy.share_certified([one], np.array([0.0, 0.2, 0.25, 0.6, 0.7]))
    assert value.tolist() == [0.75, 0.75, 0.5, 0.25, 0.0]  # the 0 was not certified at all
    assert (low[2], high[2]) == interval(2, 4)
    two = accuracy.share_certified([one, one + 0.3], np.array([0.25]))
    assert two[:, 0].tolist() == [0.75, 0.0, 1.0]


def test_certified_accuracy_against_radius(run: Path, undrawn: list[Canvas]) -> None:
    section = accuracy.certified([made.group(run)])
    assert "at 0.25 dense 50.0 %, hydra 50.0 %" in section.figures[0].alt
    (line, *_) = axes_of(section, undrawn)["certified-tiny-smoothing-0-1"].lines
    assert (line.get_ydata()[0], line.get_ydata()[-1]) == (75.0, 0.0)


def test_without_radii_it_is_said(tmp_path: Path) -> None:
    section = accuracy.certified([made.group(made.folder(tmp_path / "run", files=False))])
    assert section.figures == []
    assert "images.parquet is not there" in section.missing[0]


def test_kept_weights_by_magnitude(run: Path) -> None:
    seed, read = masks.read_masks(made.group(run))
    assert seed == 0
    dense = read_model(run / "dense" / "model.safetensors").model
    expected = np.zeros(masks.BINS, int)
    for layer in (m.weight.detach().abs() for m in dense.modules() if hasattr(m, "weight")):
        expected += torch.histc(layer / layer.max(), masks.BINS, 0, 1).int().numpy()
    kept = read["magnitude-0.1"]
    assert np.abs(kept.kept + kept.pruned - expected).max() <= 2  # float32 against float64 at edges
    assert kept.kept.sum() == 80 + 1843 + 1024
    assert kept.kept[-1] >= 3  # each layer's largest
    assert read["hydra-0.1"].median < 0.1 < kept.median
    assert {layer.name: layer.kept for layer in kept.layers} == {"0": 80, "2": 1843, "5": 1024}


def test_masks_are_drawn_by_magnitude_and_by_layer(run: Path, undrawn: list[Canvas]) -> None:
    group = made.group(run)
    weights, layers = masks.sections([group])
    assert [figure.name for figure in weights.figures] == ["weights-tiny-0-1", "weights-tiny-0-01"]
    assert [figure.name for figure in layers.figures] == ["layers-tiny-0-1", "layers-tiny-0-01"]
    histogram, _, _, per_layer = (canvas.axes[0] for canvas in undrawn)
    drawn = {p.get_label(): p.get_data().values
             for p in histogram.patches if isinstance(p, StepPatch)}  # fmt: skip
    _, read = masks.read_masks(group)
    for variant in ("hydra", "magnitude"):
        expected = read[f"{variant}-0.1"].kept
        assert drawn[f"kept by {variant}"].tolist() == expected.tolist()
    assert drawn["all weights"].sum() == 29472
    assert "hydra keeps 2,947" in weights.figures[0].alt
    lines = {line.get_label(): line for line in per_layer.lines}
    assert lines["hydra"].get_ydata() == pytest.approx([8 / 800, 184 / 18432, 102 / 10240])
    assert [t.get_text() for t in per_layer.get_xticklabels()] == ["0", "2", "5"]


@pytest.mark.parametrize(
    ("files", "words"),
    [(False, "the model files are not there"), (True, "is not a whole safetensors file")],
)
def test_missing_and_damaged_model_files_are_said(files: bool, words: str, tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=files)
    if files:
        (path / "hydra-0.1" / "model.safetensors").write_bytes(b"x" * 100)
    for section in masks.sections([made.group(path)]):
        assert section.figures == []
        assert words in section.missing[0]


def test_training_curves(run: Path, undrawn: list[Canvas]) -> None:
    figures = axes_of(curves.section([made.group(run)]), undrawn)
    stages = ("pretrain", "prune", "finetune")
    assert set(figures) == {f"curves-tiny-{s}-{m}" for s in stages for m in ("loss", "accuracy")}
    axes = figures["curves-tiny-finetune-accuracy"]
    lines = [line for line in axes.lines if len(line.get_xdata())]
    assert len(lines) == 4
    assert {tuple(line.get_ydata()) for line in lines} == {(25.0, 50.0)}
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]
    (dense,) = [ln for ln in figures["curves-tiny-pretrain-loss"].lines if len(ln.get_xdata())]
    assert list(dense.get_ydata()) == [3.0, 1.5]


@pytest.mark.usefixtures("undrawn")
def test_every_stage_has_its_curves_and_of_numbered_rounds_the_last(tmp_path: Path) -> None:
    folder = made.folder(tmp_path / "run", files=False)
    (folder / "dense").mkdir()
    stages = ("admm", "train", "train-1", "train-2")
    epochs = [{"stage": s, "epoch": 1, "metrics": {"loss": 1.0}} for s in stages]
    (folder / "dense" / "history.json").write_text(json.dumps(epochs))
    names = [figure.name for figure in curves.section([made.group(folder)]).figures]
    assert names == [f"curves-tiny-{stage}-loss" for stage in ("admm", "train", "train-2")]


@pytest.mark.usefixtures("undrawn")
def test_a_table_of_images_of_any_content_is_only_numbers(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run")
    for name in ("dense", "hydra-0.01"):
        columns = {
            "clean": [float("nan"), 1e9] * 5,
            "smoothing_radius": [float("inf"), float("nan"), -1.0, 0.5, *[0.0] * 6],
        }
        pq.write_table(pa.table(columns), path / name / "images.parquet")
    pq.write_table(pa.table({"clean": ["text"]}), path / "magnitude-0.01" / "images.parquet")
    group = made.group(path)
    assert "dense 87.5 % at 0" not in accuracy.security([group]).figures[1].alt
    assert "hydra 50.0 % at 0" in accuracy.security([group]).figures[1].alt
    assert "at 0.25 dense 10.0 %" in accuracy.certified([group]).figures[0].alt


def test_images_are_attacked_in_the_ball_of_the_recipe(run: Path, undrawn: list[Canvas]) -> None:
    section = images.section([made.group(run)])
    assert (section.missing, len(section.figures)) == ([], 1)
    (axes,) = undrawn[0].axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["untouched", "dense", "hydra-0.01", "magnitude-0.01"]
    pixels = [np.asarray(image.get_array(), np.float64) for image in axes.get_images()]
    untouched, dense = np.stack(pixels[:6]), np.stack(pixels[6:12])
    assert np.abs(dense - untouched).max() == pytest.approx(0.1, abs=1e-6)
    assert (dense.min(), dense.max()) == (0.0, 1.0)
    assert section.figures[0].title == f"tiny: PGD-2, {BALL}"
    assert "untouched: 2, 3, 4, 5, 6, 7; dense: " in section.figures[0].alt
    assert len(axes.texts) == 24


def _no_attack(document: dict[str, Any]) -> None:
    document["params"]["evaluate"] = document["params"]["evaluate"][:1]


def _nowhere(document: dict[str, Any]) -> None:
    document["params"]["data"] = {"name": "mnist", "root": "/nowhere"}


def _own(document: dict[str, Any]) -> None:
    document["params"]["data"] = {"name": "of_my_own"}


def _others(document: dict[str, Any]) -> None:
    document["params"]["data"]["validaton"] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_attack, "no attack among its evaluators"),
        (_nowhere, "mnist': the testing images were not found"),
        (_own, "of_my_own"),
        (_others, "validaton"),
    ],
)
def test_without_an_attack_or_images_it_is_said(
    change: made.Change, words: str, tmp_path: Path
) -> None:
    section = images.section([made.group(made.folder(tmp_path / "run", change=change))])
    assert section.figures == []
    assert words in section.missing[0]
