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
from matplotlib.patches import StepPatch

from robustprune.artifacts.reading import read_model
from robustprune.evaluators.accuracy import interval
from robustprune.report import accuracy, certified, curves, layers, security, weights
from robustprune.report.masks import BINS, read_masks

from . import made
from .conftest import Painted


def series(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The error bars of axes by label: x and y."""
    return {
        container.get_label(): (
            container.lines[0].get_xdata().tolist(),
            container.lines[0].get_ydata().tolist(),
        )
        for container in axes.containers
    }


def test_accuracy_against_density(run: Path, painted: Painted) -> None:
    figures = painted(accuracy)
    section = accuracy.section([made.group(run)])
    assert list(figures) == [
        f"accuracy tiny {metric}" for metric in ("clean", "pgd", "pgd_0.2", "smoothing")
    ]
    axes = figures["accuracy tiny pgd"]
    found = series(axes)
    assert found["dense"] == ([1.0], [75.0])
    assert found["hydra"][1] == [62.5, 50.0]
    assert found["hydra"][0] == pytest.approx([0.1, 0.01], rel=0.05)
    assert found["magnitude"][1] == [62.5, 25.0]
    assert axes.get_xscale() == "log"
    bars = next(c for c in axes.containers if c.get_label() == "hydra").lines[2][0]
    assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(15)  # 0.1 below, 0.05 above
    assert "dense 75.0 % at 1; hydra 62.5 % at 0.1, 50.0 % at 0.01" in section.figures[1].alt
    assert section.figures[1].title == "tiny: pgd, ℓ∞ ε = 0.1"


def _paper(document: dict[str, Any]) -> None:
    numbers = {"dense": 0.5, "hydra-0.1": 0.4, "hydra-0.5": 0.45, "ours-nan": 0.1}
    document["params"]["paper"] = {"source": "Table 1", "metrics": {"pgd": numbers, "era": {}}}


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path, painted: Painted) -> None:
    figures = painted(accuracy)
    path = made.folder(tmp_path / "run", files=False, change=_paper)
    section = accuracy.section([made.group(path)])
    drawn = {line.get_label(): line for line in figures["accuracy tiny pgd"].lines}
    assert drawn["hydra, paper"].get_xdata().tolist() == [0.5, 0.1]
    assert drawn["hydra, paper"].get_ydata().tolist() == [45.0, 40.0]
    assert drawn["dense, paper"].get_ydata().tolist() == [50.0]
    assert "ours, paper" not in drawn
    assert "hydra in the paper 45.0 % at 0.5, 40.0 % at 0.1" in section.figures[1].alt
    assert section.missing == ["tiny: the paper's 'era' was not measured here."]
    assert "Hollow markers" in section.text[-1]


def test_each_seed_is_a_dot(tmp_path: Path, painted: Painted) -> None:
    figures = painted(accuracy)
    paths = [made.folder(tmp_path / str(s), s, files=False, more=s / 10) for s in (0, 1)]
    accuracy.section([made.group(*paths)])
    dots = [line.get_ydata() for line in figures["accuracy tiny pgd"].lines
            if line.get_marker() == "."]  # fmt: skip
    assert [75.0, 85.0] in [pytest.approx(list(values)) for values in dots]


def test_a_security_curve_is_about_the_same_images(run: Path, painted: Painted) -> None:
    figures = painted(security)
    section = security.section([made.group(run)])
    assert len(figures) == 2
    found = series(figures["security tiny ℓ∞ pgd 0.01"])
    # clean errs on the first 3 of HYDRA's 10 images, so on 3 of the first 8
    assert found["hydra"] == ([0.0, 0.1, 0.2], [62.5, 50.0, 25.0])
    assert found["dense"] == ([0.0, 0.1, 0.2], [87.5, 75.0, 50.0])
    assert section.missing == []


def test_without_images_the_clean_accuracy_of_others_is_left_out(
    tmp_path: Path, painted: Painted
) -> None:
    figures = painted(security)
    security.section([made.group(made.folder(tmp_path / "run", files=False))])
    found = series(figures["security tiny ℓ∞ pgd 0.01"])
    assert found["hydra"] == ([0.1, 0.2], [50.0, 25.0])


def _one_radius(document: dict[str, Any]) -> None:
    del document["params"]["evaluate"][2]


def test_one_radius_is_no_curve(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_one_radius)
    section = security.section([made.group(path)])
    assert section.figures == []
    assert "two or more radii" in section.missing[0]


def test_certified_accuracy_by_hand() -> None:
    radii = np.array(made.RADII)
    one = certified.certified([radii], np.array([0.0, 0.2, 0.25, 0.6, 0.7]))
    assert one.value.tolist() == [0.75, 0.75, 0.5, 0.25, 0.0]  # the 0 was not certified at all
    assert (one.low[2], one.high[2]) == interval(2, 4)
    two = certified.certified([radii, radii + 0.3], np.array([0.25]))
    assert two.value.tolist() == [0.75]
    assert (two.low[0], two.high[0]) == (0.0, 1.0)


def test_certified_accuracy_against_radius(run: Path, painted: Painted) -> None:
    figures = painted(certified)
    section = certified.section([made.group(run)])
    assert len(figures) == 2
    assert "at 0.25 dense 50.0 %, hydra 50.0 %" in section.figures[0].alt
    (line, *_) = figures["certified tiny smoothing 0.1"].lines
    assert line.get_ydata()[0] == 75.0
    assert line.get_ydata()[-1] == 0.0


@pytest.mark.usefixtures("undrawn")
def test_without_radii_it_is_said(tmp_path: Path) -> None:
    section = certified.section([made.group(made.folder(tmp_path / "run", files=False))])
    assert section.figures == []
    assert "images.parquet is not there" in section.missing[0]


def test_kept_weights_by_magnitude(run: Path) -> None:
    masks = read_masks(made.group(run))
    assert (masks.seed, masks.problem) == (0, "")
    dense = read_model(run / "dense" / "model.safetensors").model
    layers = [m.weight.detach().abs() for m in dense.modules() if hasattr(m, "weight")]
    expected = np.zeros(BINS, int)
    for layer in layers:
        (share,) = (layer / layer.max()).reshape(1, -1)
        expected += torch.histc(share, BINS, 0, 1).int().numpy()
    kept = masks.networks["magnitude-0.1"]
    assert np.abs(kept.kept + kept.pruned - expected).max() <= 2  # float32 against float64 at edges
    assert kept.kept.sum() == 80 + 1843 + 1024
    assert kept.kept[-1] >= 3  # each layer's largest
    assert masks.networks["hydra-0.1"].median < 0.1 < kept.median
    counts = {layer.name: layer.kept for layer in kept.layers}
    assert counts == {"0": 80, "2": 1843, "5": 1024}


def test_the_histogram_holds_hydra_against_magnitude(run: Path, painted: Painted) -> None:
    figures = painted(weights)
    group = made.group(run)
    masks = read_masks(group)
    section = weights.section([group], {"tiny": masks})
    assert list(figures) == ["weights tiny 0.1", "weights tiny 0.01"]
    drawn = {
        patch.get_label(): patch.get_data().values
        for patch in figures["weights tiny 0.1"].patches
        if isinstance(patch, StepPatch)
    }
    for variant in ("hydra", "magnitude"):
        expected = masks.networks[f"{variant}-0.1"].kept
        assert drawn[f"kept by {variant}"].tolist() == expected.tolist()
    assert drawn["all weights"].sum() == 29472
    assert "hydra keeps 2,947" in section.figures[0].alt


def test_density_a_layer(run: Path, painted: Painted) -> None:
    figures = painted(layers)
    group = made.group(run)
    layers.section([group], {"tiny": read_masks(group)})
    drawn = {line.get_label(): line for line in figures["layers tiny 0.01"].lines}
    assert drawn["hydra"].get_ydata() == pytest.approx([8 / 800, 184 / 18432, 102 / 10240])
    assert [t.get_text() for t in figures["layers tiny 0.01"].get_xticklabels()] == ["0", "2", "5"]


def test_without_model_files_it_is_said(tmp_path: Path) -> None:
    group = made.group(made.folder(tmp_path / "run", files=False))
    masks = {"tiny": read_masks(group)}
    for section in (weights.section([group], masks), layers.section([group], masks)):
        assert section.figures == []
        assert section.missing == ["tiny: the model files are not there."]


def test_damaged_model_files_are_said(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run")
    (path / "hydra-0.1" / "model.safetensors").write_bytes(b"x" * 100)
    masks = read_masks(made.group(path))
    assert masks.networks == {}
    assert "is not a whole safetensors file" in masks.problem


def test_training_curves(run: Path, painted: Painted) -> None:
    figures = painted(curves)
    curves.section([made.group(run)])
    assert set(figures) == {
        f"curves tiny {stage} {metric}"
        for stage in ("pretrain", "prune", "finetune")
        for metric in ("loss", "accuracy")
    }
    axes = figures["curves tiny finetune accuracy"]
    lines = [line for line in axes.lines if len(line.get_xdata())]
    assert len(lines) == 4
    assert {tuple(line.get_ydata()) for line in lines} == {(25.0, 50.0)}
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]
    (dense,) = [ln for ln in figures["curves tiny pretrain loss"].lines if len(ln.get_xdata())]
    assert list(dense.get_ydata()) == [3.0, 1.5]


def test_every_stage_has_its_curves_and_of_numbered_rounds_the_last(
    tmp_path: Path, painted: Painted
) -> None:
    folder = made.folder(tmp_path / "run")
    stages = ("admm", "train", "train-1", "train-2")
    epochs = [{"stage": s, "epoch": 1, "metrics": {"loss": 1.0}} for s in stages]
    (folder / "dense" / "history.json").write_text(json.dumps(epochs))
    figures = painted(curves)
    curves.section([made.group(folder)])
    shown = {name.split()[2] for name in figures}
    assert {"admm", "train", "train-2"} <= shown
    assert "train-1" not in shown


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
    assert "dense 87.5 % at 0" not in security.section([group]).figures[1].alt
    assert "hydra 50.0 % at 0" in security.section([group]).figures[1].alt
    assert "at 0.25 dense 10.0 %" in certified.section([group]).figures[0].alt
