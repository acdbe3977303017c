"""Several recipes and sweeps in one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from robustprune.cli.variants import variants
from robustprune.errors import UsageError

from ..pipeline import tiny
from .conftest import Command


def names(*sweeps: str, paths: Sequence[Path]) -> list[str]:
    return [v.recipe.name for v in variants(paths, overrides=[], sweeps=sweeps)]


def test_each_recipe_runs_with_each_combination(tmp_path: Path) -> None:
    first = tiny.write(tmp_path)
    paths = [first, tiny.write(tmp_path, {"name": "b"}, name="b.yaml")]
    assert names(paths=paths) == ["tiny", "b"]
    assert names("seed=[0, 1]", "prune.epochs=[3]", paths=paths) == [
        *("tiny-seed-0-epochs-3", "tiny-seed-1-epochs-3", "b-seed-0-epochs-3", "b-seed-1-epochs-3")
    ]
    (variant, _) = variants([first], overrides=["seed=7"], sweeps=["prune.share=[1/4, 1]"])
    assert variant.overrides == ("seed=7", "prune.share=1/4", "name=tiny-share-1_4")
    assert variant.recipe.prune is not None
    assert (variant.recipe.seed, variant.recipe.prune.share) == (7, 0.25)
    sweep = "objective=[{name: trades, eps: 8/255}, benign]"
    found = variants([first], overrides=[], sweeps=[sweep, "prune.densities=[[0.1], [0.5, 0.2]]"])
    assert [variant.recipe.name for variant in found] == [
        *("tiny-objective-1-densities-1", "tiny-objective-1-densities-2"),
        *("tiny-objective-benign-densities-1", "tiny-objective-benign-densities-2"),
    ]
    assert found[0].recipe.objective.model_dump()["eps"] == 8 / 255


def test_several_are_checked_a_line_each(command: Command, here: Path) -> None:
    tiny.write(here, name="a.yaml")
    tiny.write(here, {"name": "b", "data": {"name": "svhn", "root": "nowhere"}}, name="b.yaml")
    said = command("check", "a.yaml", "b.yaml")
    assert (said.code, said.err) == (0, "")
    assert said.out == "a.yaml is valid: tiny\nb.yaml is valid: b\n"
    tiny.write(here, {"objective": {"name": "pdg"}}, name="c.yaml")
    said = command("check", "a.yaml", "c.yaml", "d.yaml", "--set", "seed=x")
    assert said.code == 2
    for text in ("seed=x", "'pdg'", "cannot read the recipe d.yaml"):
        assert text in said.err


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("seed", "--sweep seed: expected key=[value, …], e.g. prune.epochs=[1, 2, 4]"),
        ("seed=1", "--sweep seed=1: expected key=[value, …]"),
        ("seed=[]", "--sweep seed=[]: expected key=[value, …]"),
        ("=[1]", "expected key=[value, …]"),
        ("seed=[1", "--sweep seed=[1: this is not YAML: "),
        ("seed=[1, 1]", "several runs would be called 'tiny-seed-1'"),
        ("seed=[0, x]", "--set seed=x: seed: expected a whole number"),
        (f"seed=[{','.join(map(str, range(1001)))}]", "more than 1000 runs"),
    ],
)
def test_a_sweep_that_means_nothing_is_a_mistake(sweep: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        names(sweep, paths=[tiny.write(tmp_path)])
    assert message in str(error.value)


@pytest.mark.slow
def test_a_sweep_trains_its_dense_network_once(command: Command, here: Path) -> None:
    path = tiny.write(here, tiny.SMALL, {"finetune": None})
    said = command("run", path, "--sweep", "prune.epochs=[1, 2]", "--max-steps", "1")
    assert said.code == 0, said.err
    folders = {path.name: path for path in (here / "runs").iterdir()}
    assert set(folders) == {"tiny-epochs-1", "tiny-epochs-2", "dense"}
    assert "run 2 of 2: tiny-epochs-2" in said.out
    assert said.out.count("the dense network is reused") == 1
    (second,) = folders["tiny-epochs-2"].iterdir()
    assert tiny.results(second)["params"]["prune"]["epochs"] == 2
    (shared,) = folders["dense"].iterdir()
    assert tiny.results(second)["networks"][0]["reused"] == shared.name
    again = command("run", path, "--sweep", "prune.epochs=[1, 2]", "--max-steps", "1", "--resume")
    assert again.out.count("finished already in") == 2
    fresh = command("run", path, "--max-steps", "1", "--fresh")
    assert "reused" not in fresh.out


@pytest.mark.slow
def test_a_sweep_over_seeds_ends_with_its_means(command: Command, here: Path) -> None:
    change = {"finetune": None, "evaluate": tiny.RECIPE["evaluate"]}
    path = tiny.write(here, tiny.SMALL, change)
    typed = ("run", path, "--sweep", "seed=[0, 1]", "--max-steps", "1")
    for words in (typed, (*typed, "--resume")):
        said = command(*words)
        assert said.code == 0, said.err
        table = said.out[said.out.index("final metrics") :]
        rows = [line.split() for line in table.splitlines()]
        (dense,), (hydra,) = ([r for r in rows if r[:1] == [n]] for n in ("dense", "hydra-0.1"))
        assert (dense[:3], hydra[:3]) == (["dense", "tiny", "2"], ["hydra-0.1", "tiny", "2"])
        assert "over the seeds" in table
        assert "differences" not in said.out
    folders = sorted((here / "runs").glob("tiny-seed-*/*"))
    assert len(folders) == 2
    means = command("compare", *folders).out
    assert table.rstrip().startswith(means[means.index("final metrics") :].rstrip())


def test_all_are_checked_before_the_first_one_trains(command: Command, here: Path) -> None:
    good = tiny.write(here, tiny.SMALL)
    wrong = tiny.write(here, {"name": "wrong", "model": {"in_chans": 3}}, name="w.yaml")
    said = command("run", good, wrong)
    assert said.code == 2
    assert said.err.startswith("error: wrong: model.in_chans is 3, but")
    assert not (here / "runs").exists()
    said = command("run", good, "--sweep", "seed=[0, 1]", "--out", "x")
    assert said.code == 2
    assert "--out names one run's folder, and 2 runs are asked for" in said.err


def test_one_that_diverges_does_not_stop_the_others(command: Command, here: Path) -> None:
    path = tiny.write(here, {"prune": None, "finetune": None, "evaluate": []})
    said = command("run", path, "--sweep", "pretrain.optimizer.lr=[1e8, 0.1]")
    assert said.code == 2
    assert "tiny-lr-1e8: dense: the loss of pretrain" in said.err
    assert "final metrics" not in said.out  # one that ended has nothing to be compared with
    assert said.err.rstrip().endswith("error: 1 of 2 runs failed, see above.")
    (second,) = (here / "runs" / "tiny-lr-0.1").iterdir()
    assert (second / "dense" / "model.safetensors").exists()
