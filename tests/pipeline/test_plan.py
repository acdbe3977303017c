from __future__ import annotations

from pathlib import Path

from robustprune.artifacts.reading import read_model
from robustprune.pipeline.plan import plan

from . import tiny


def test_it_keeps_what_the_run_keeps(folder: Path) -> None:
    columns, rows = plan(tiny.recipe()).kept()
    assert columns == ["layer", "shape", "dense", *tiny.NETWORKS[1:]]
    assert [row[:3] for row in rows] == [
        ["0", "32×1×5×5", "800"],
        ["2", "64×32×3×3", "18,432"],
        ["5", "10×1024", "10,240"],
        ["all", "", "29,472"],
    ]
    for column, name in enumerate(tiny.NETWORKS[1:], start=3):
        masks = read_model(folder / name / "model.safetensors").masks
        counts = [int(masks[f"{row[0]}.weight"].sum()) for row in rows[:-1]]
        assert [row[column] for row in rows] == [f"{n:,}" for n in (*counts, sum(counts))]


def test_it_takes_the_steps_that_the_run_takes() -> None:
    """128 images make 2 batches of 64; what the loop does is counted in test_variants."""
    columns, rows = plan(tiny.recipe({"prune": {"densities": [0.1]}})).steps()
    assert columns == ["network", "stage", "epochs", "steps per epoch", "steps"]
    assert rows == [
        ["dense", "pretrain", "2", "2", "4"],
        ["hydra-0.1", "prune", "2", "2", "4"],
        ["hydra-0.1", "finetune", "2", "2", "4"],
        ["magnitude-0.1", "finetune", "2", "2", "4"],
        ["all", "", "", "", "16"],
    ]


def test_repeats_and_the_validation_split_count() -> None:
    free = {"name": "free", "eps": 0.1, "steps": None, "replays": 3}
    data = {"subset": None, "validation": 0.1}  # of 1,437 images 144 are held out
    _, rows = plan(tiny.recipe({"objective": free, "data": data, "prune": None})).steps()
    assert rows[0] == ["dense", "pretrain", "2", "63", "126"]  # 1,293 = 20 · 64 + 13


def test_it_names_the_run_folder_and_the_tracking_store() -> None:
    tracking = {"enabled": True, "experiment": "trial"}
    folder, store = plan(tiny.recipe({"tracking": tracking})).paths()
    assert folder == "runs/tiny/<id>"
    assert store == "MLflow: sqlite:///runs/mlflow.db, experiment 'trial'"
