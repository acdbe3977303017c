"""Studies: what is tried, how it is compared, and that nothing is lost or looked at."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import robustprune as rp
from robustprune.datasets.small_images import Digits
from robustprune.errors import InterruptedRun, UsageError
from robustprune.pipeline import early, tuning
from robustprune.pipeline.study import Study
from robustprune.pipeline.trials import TuneResult
from robustprune.pruners import Method
from robustprune.recipe import load_recipe
from robustprune.tracking import Console

from . import tiny
from .steps import counted, interrupting

VALIDATED: tuple[Any, ...] = (
    {**tiny.SMALL, "evaluate": tiny.RECIPE["evaluate"], "data": {"validation": 0.25}},
    {"objective": {"name": "benign", "eps": None, "steps": None}},
)
OVER = ["prune.optimizer.lr=log(0.1,1000)", "finetune.optimizer.momentum=[0.5,0.9]"]


def go(folder: Path, *changes: Any, over: Any = OVER, **options: Any) -> TuneResult:
    """A study of the tiny recipe."""
    path = tiny.write(folder, *VALIDATED, *changes)
    options = {"trials": 3, "out": folder / "study", "console": Console(quiet=True)} | options
    return rp.tune(path, over=over, runs=folder / "runs", **options)


def histories(result: TuneResult, number: int) -> list[list[Any]]:
    """The curves of the pruned networks of a trial."""
    paths = sorted((result.folder / "trials" / f"{number:04}").glob("*/history.json"))
    return [json.loads(path.read_text()) for path in paths if path.parent.name != "dense"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """Tests only look at it."""
    return go(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
def test_the_loss_is_the_last_one_of_the_pruned_network(study: TuneResult) -> None:
    assert [trial.end for trial in study.trials] == ["finished"] * 3
    for trial in study.trials:
        (history,) = histories(study, trial.number)
        assert history[-1]["stage"] == "finetune"
        assert trial.loss == history[-1]["metrics"]["val_loss"]
    assert study.best.loss == min(trial.loss for trial in study.trials)


@pytest.mark.slow
def test_it_is_the_mean_over_pruned_networks(tmp_path: Path) -> None:
    both = {"prune": {"methods": ["hydra", "magnitude"]}}
    (trial,) = (result := go(tmp_path, both, trials=1, max_steps=1)).trials
    losses = [history[-1]["metrics"]["val_loss"] for history in histories(result, 0)]
    assert len(losses) == 2
    assert trial.loss == pytest.approx(sum(losses) / 2)


@pytest.mark.slow
def test_the_first_trial_has_the_recipes_own_values(study: TuneResult) -> None:
    assert study.trials[0].values == {
        "prune.optimizer.lr": "10.0",
        "finetune.optimizer.momentum": "0.9",
    }
    rates = [float(trial.values["prune.optimizer.lr"]) for trial in study.trials]
    assert len(set(rates)) == 3
    assert all(0.1 <= rate <= 1000 for rate in rates)


@pytest.mark.slow
def test_a_value_that_is_set_is_the_first_that_is_tried(tmp_path: Path) -> None:
    result = go(
        tmp_path, over=[OVER[0]], overrides=["prune.optimizer.lr=0.5"], trials=1, max_steps=1
    )
    assert result.trials[0].values == {"prune.optimizer.lr": "0.5"}


@pytest.mark.slow
def test_the_best_values_are_a_recipe_that_extends_the_first(study: TuneResult) -> None:
    values = study.best.values
    own = yaml.safe_load(study.recipe.read_text())
    assert own == {
        "extends": "../tiny.yaml",
        "prune": {"optimizer": {"lr": float(values["prune.optimizer.lr"])}},
        "finetune": {"optimizer": {"momentum": float(values["finetune.optimizer.momentum"])}},
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    changed = load_recipe(study.folder.parent / "tiny.yaml", overrides)
    assert load_recipe(study.recipe).document() == changed.document()
    assert f"# trial {study.best.number}, loss {study.best.loss:.6g}" in study.recipe.read_text()


@pytest.mark.slow
def test_a_study_that_was_interrupted_comes_to_the_same(
    study: TuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the dense network's training, while a trial is chosen, and between trials."""

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    for place, name, act in (
        (Method, "step", interrupting(1)),
        (Study, "_values", interrupt),
        (tuning._Study, "_try", interrupt),
        (tuning._Study, "_end", interrupt),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, act)
            with pytest.raises(InterruptedRun):
                go(tmp_path, resume=(tmp_path / "study").exists())
    resumed = go(tmp_path, resume=True)
    assert resumed.trials == study.trials
    assert resumed.best == study.best


_KILLED = """
import os, signal, sys
from pathlib import Path
from robustprune.pruners import Method
from tests.pipeline import test_tuning
from tests.pipeline.steps import watched
left = [24]
def act(network, stage):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Method.step = watched(act)
test_tuning.go(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_study_that_was_killed_comes_to_the_same(study: TuneResult, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _KILLED, str(tmp_path)]
    ran = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True)
    assert ran.returncode == -9, ran.stderr.decode()
    assert go(tmp_path, resume=True).trials == study.trials


@pytest.mark.slow
def test_a_finished_study_is_gone_on_with_for_more_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = go(tmp_path, trials=1)
    steps = counted(monkeypatch)
    assert go(tmp_path, trials=1, resume=True) == before
    assert not steps
    more = go(tmp_path, trials=2, resume=True)
    assert more.trials[:1] == before.trials
    assert len(more.trials) == 2
    with pytest.raises(UsageError, match=r"over\.finetune\.optimizer\.momentum: was"):
        go(tmp_path, over=OVER[:1], resume=True)


@pytest.mark.slow
def test_no_test_image_is_looked_at_and_the_dense_network_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unseen:
        """Knows how many images it has."""

        def __len__(self) -> int:
            return 100

        def digest(self) -> str:
            return "0"

    original, steps = Digits.load, counted(monkeypatch)

    def load(self: Digits, **options: Any) -> Any:
        return dataclasses.replace(original(self, **options), test=Unseen())  # type: ignore[arg-type]

    monkeypatch.setattr(Digits, "load", load)
    result = go(tmp_path, trials=2)
    assert steps["dense pretrain"] == 4
    assert steps["hydra-0.1 finetune"] == 8
    for path in result.folder.glob("trials/*/results.json"):
        assert [entry["metrics"] for entry in json.loads(path.read_text())["networks"]] == [{}, {}]


@pytest.mark.slow
def test_a_trial_that_diverges_does_not_end_the_study(tmp_path: Path) -> None:
    over = ["finetune.optimizer.lr=[1e30,0.05]"]
    result = go(tmp_path, over=over, sampler="grid")
    assert [(trial.end, trial.values["finetune.optimizer.lr"]) for trial in result.trials] == [
        ("diverged", "1e30"),
        ("finished", "0.05"),
    ]
    assert result.trials[0].loss == math.inf
    assert result.best is result.trials[1]
    assert not list(result.folder.glob("trials/*/state/*.pt"))
    with pytest.raises(UsageError, match=r"no trial came to its end\. The last one: diverged"):
        go(tmp_path, over=["finetune.optimizer.lr=[1e30,1e31]"], sampler="grid", out=tmp_path / "b")


@pytest.mark.slow
def test_a_trial_that_is_behind_is_stopped_and_values_that_were_tried_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_AT_LEAST", 1)
    steps = counted(monkeypatch)
    result = go(tmp_path, over=["pretrain.optimizer.lr=[0.1,1e-9]"], trials=8)
    ends = {trial.values["pretrain.optimizer.lr"]: trial.end for trial in result.trials[::-1]}
    assert ends["0.1"] == "finished"
    assert ends["1e-9"].startswith("stopped after epoch")
    assert "of dense pretrain" in ends["1e-9"]
    assert steps["hydra-0.1 finetune"] == 4, "of one trial alone"
    again = [trial for trial in result.trials if trial.end == "as trial 0"]
    assert again
    assert all(trial.loss == result.trials[0].loss for trial in again)
    assert result.best is result.trials[0]
    assert go(tmp_path, over=["pretrain.optimizer.lr=[0.1,1e-9]"], trials=8, resume=True) == result


@pytest.mark.slow
def test_values_that_do_not_fit_together_are_refused_alone(tmp_path: Path) -> None:
    over = ["finetune.batch_size=[2,64]", "finetune.accumulate=[1,32]"]
    result = go(tmp_path, over=over, sampler="grid", max_steps=1)
    ends = [trial.end for trial in result.trials]
    assert (ends[0], *ends[2:]) == ("finished",) * 3
    assert ends[1].startswith("refused: finetune.accumulate: a batch of 2 cannot be cut into 32")


@pytest.mark.slow
def test_what_set_has_changed_is_in_the_best_recipe_and_lists_are_there_whole(
    tmp_path: Path,
) -> None:
    over, overrides = ["prune.methods.0.train_norms=[true,false]"], ["prune.densities=[0.5]"]
    result = go(tmp_path, over=over, overrides=overrides, sampler="grid", max_steps=1)
    own = yaml.safe_load(result.recipe.read_text())
    assert own == {
        "extends": "../tiny.yaml",
        "prune": {"methods": [{"name": "hydra", "train_norms": True}], "densities": [0.5]},
    }
    assert "by --set, for all trials: prune.densities=[0.5]" in result.recipe.read_text()
    more = [*overrides, "finetune={epochs: 1}"]  # without the file's other keys
    result = go(tmp_path, over=over, overrides=more, sampler="grid", out=tmp_path / "b")
    assert load_recipe(result.recipe).document()["finetune"]["batch_size"] == 128
    assert load_recipe(result.recipe).prune.densities == [0.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("over", "options", "message"),
    [
        ("prune.optimizer.rate=log(1,2)", {}, "unknown key 'rate'. Choices: lr, momentum"),
        ("prune.optimzer.lr=log(1,2)", {}, "Did you mean 'optimizer'?"),
        ("prune.methods.3.label=[a,b]", {}, "there is no '3' in"),
        ("prune.optimizer.lr=log(1,2", {}, "expected log(a,b)"),
        ("prune.epochs=uniform(1,3)", {}, "does not fit"),
        ("finetune.batch_size=int(0,3)", {}, "0 does not fit"),
        (
            "prune.methods.0.allocation=[uniform,uniform_plus]",
            {"overrides": ["prune.densities=[0.001]"]},
            "uniform_plus does not fit",
        ),
        ("objective=[benign,trades]", {}, "such losses cannot be compared"),
        ("finetune.objective=[benign,trades]", {}, "such losses cannot be compared"),
        ("seed=[0,1]", {}, "--sweep seed=[…]"),
        ("data.subset=[64,128]", {}, "such losses cannot be compared"),
        ("prune.densities=[[0.1],[0.2]]", {}, "such losses cannot be compared"),
        ("evaluate.0.samples=[1,2]", {}, "it changes nothing that is trained"),
        (OVER[0], {"overrides": ["data.validation=0"]}, "--set data.validation=0.1"),
        (
            "prune.optimizer=[sgd,adam]",
            {"overrides": ["prune.optimizer.lr=1"]},
            "--set prune.optimizer.lr=1: --over prune.optimizer replaces it",
        ),
        (OVER[0], {"trials": 0}, "trials: expected a whole number from 1 on, got 0"),
        (OVER[0], {"sampler": "tpa"}, "no sampler 'tpa'. Choices: tpe, grid, random."),
        ("a=[1,2]", {"overrides": ["seeds=1"]}, "Did you mean 'seed'?"),
        ("prune.optimizer.lr=log(1,2)", {"sampler": "grid", "trials": 2000}, "1000 are the most"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    over: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        go(tmp_path, over=[over], **options)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_network_that_is_not_trained_cannot_be_compared(tmp_path: Path) -> None:
    change = {"prune": {"methods": ["hydra", "magnitude"]}, "finetune": None}
    with pytest.raises(UsageError, match=r"magnitude-0\.1 is trained in no stage"):
        go(tmp_path, change, over=OVER[:1])


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([], "name one option or more"),
        ([OVER[0], OVER[0]], r"prune\.optimizer\.lr: it is .* twice"),
    ],
)
def test_each_option_is_named_once(over: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        go(tmp_path, over=over)


@pytest.mark.slow
def test_an_option_of_a_part_that_is_tried_counts_in_whatever_order(tmp_path: Path) -> None:
    over = ["prune.optimizer.lr=[0.5,0.25]", "prune.optimizer=[sgd,adam]"]
    result = go(tmp_path, over=over, sampler="grid", max_steps=1)
    tried = [
        load_recipe(result.folder / "trials" / f"{number:04}" / "recipe.yaml").prune.optimizer  # type: ignore[union-attr]
        for number in range(4)
    ]
    assert [(one.registered_name, one.lr) for one in tried] == [  # type: ignore[attr-defined]
        ("sgd", 0.5),
        ("sgd", 0.25),
        ("adam", 0.5),
        ("adam", 0.25),
    ]


@pytest.mark.slow
def test_a_damaged_database_is_named_and_without_it_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = go(tmp_path, trials=2, max_steps=1)
    database = result.folder / "study.db"
    for content in (b"garbage" * 500, database.read_bytes()[:5000]):
        database.write_bytes(content)
        with pytest.raises(UsageError, match=r"study\.db cannot be read or written: .*delete it"):
            go(tmp_path, trials=2, max_steps=1, resume=True)
    database.unlink()
    steps = counted(monkeypatch)
    again = go(tmp_path, trials=2, max_steps=1, resume=True)
    assert not steps
    assert [(t.values, t.loss) for t in again.trials] == [(t.values, t.loss) for t in result.trials]


def test_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        go(tmp_path)


@pytest.mark.slow
def test_a_dense_network_alone_can_be_tuned(tmp_path: Path) -> None:
    over = ["pretrain.optimizer.lr=[0.1,0.01]"]
    result = go(tmp_path, {"prune": None, "finetune": None}, over=over, sampler="grid", max_steps=1)
    path = result.folder / "trials/0000/dense/history.json"
    assert result.trials[0].loss == json.loads(path.read_text())[-1]["metrics"]["val_loss"]


TRACKED = {"tracking": {"enabled": True, "experiment": "trial"}}


@pytest.mark.slow
def test_mlflow_has_a_run_for_the_study_and_one_for_each_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", interrupting(15))
        with pytest.raises(InterruptedRun):
            go(tmp_path, TRACKED, trials=2)
    result = go(tmp_path, TRACKED, trials=2, resume=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("trial")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"tiny-tune, seed 0", "trial-0000", "trial-0001"}
    parent = found["tiny-tune, seed 0"]
    assert parent.data.metrics["best/val_loss"] == pytest.approx(result.best.loss)
    assert parent.data.params["over.prune.optimizer.lr"] == "log(0.1,1000)"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "recipe.yaml",
        "best.yaml",
    }
    for trial in result.trials:
        run = found[f"trial-{trial.number:04}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["ended"] == "finished"
        assert run.info.status == "FINISHED"
        assert {key: run.data.params[key] for key in trial.values} == trial.values
        assert run.data.metrics["final/val_loss"] == pytest.approx(trial.loss)
        curve = client.get_metric_history(run.info.run_id, "val_loss")
        assert [point.value for point in curve] == pytest.approx(list(trial.curve.values()))
        assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_dead_store_does_not_end_a_study(tmp_path: Path, capsys: Any) -> None:
    dead = {"tracking": {"enabled": True, "uri": "http://127.0.0.1:9"}}
    assert len(go(tmp_path, dead, trials=1).trials) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the same command with --resume records what is missing" in said
