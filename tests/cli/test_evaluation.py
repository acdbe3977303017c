"""What the commands that judge a saved network pass on, print and write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from torch import Tensor

from robustprune import evaluators
from robustprune.cli import certify, verify
from robustprune.cli.main import parser
from robustprune.cli.outcome import FAULT, OK, USAGE
from robustprune.errors import UsageError
from robustprune.pipeline import RunResult

from ..pipeline import liars, tiny
from .conftest import Command

LIAR = {"name": "liar", "eps": 0.3, "samples": 40}
PGD = {"name": "pgd", "label": "pgd", "eps": 0.3, "steps": 3, "samples": 30}


@pytest.fixture
def parts() -> Iterator[None]:
    parts = {"liar": liars.Gullible, "verified": liars.Verified, "smoothing": liars.Careful}
    with liars.registered(**parts):
        yield


@pytest.fixture
def model(small: RunResult) -> Path:
    return small.folder / "hydra-0.1" / "model.safetensors"


def certified(objective: Any, *words: str) -> dict[str, Any]:
    arguments = parser().parse_args(["certify", "a.safetensors", *words])
    (document,) = certify.evaluators(arguments, {"objective": objective})
    return document


def test_certify_passes_on_what_is_typed_and_nothing_else() -> None:
    assert certified(None) == {"name": "smoothing"}
    words = ["--sigma=1/4", "--n0=50", "--n=1e5", "--alpha=1e-2", "--radius=110/255"]
    assert certified(None, *words, "--sequential") == {
        "name": "smoothing",
        "sigma": 0.25,
        "n0": 50,
        "n": 100_000,
        "alpha": 0.01,
        "radius": 110 / 255,
        "sequential": True,
    }


def test_its_options_are_those_of_the_evaluator() -> None:
    words = ["--sigma=0.1", "--n0=5", "--n=6", "--alpha=0.1", "--radius=0.2", "--sequential"]
    document = certified(None, *words)
    evaluator = evaluators.create(document.pop("name"), **document)
    assert document == {name: getattr(evaluator, name) for name in document}


def test_the_noise_is_that_of_training_unless_another_is_typed() -> None:
    trained = {"name": "stability", "sigma": 0.5}
    assert certified(trained)["sigma"] == 0.5
    assert certified(trained, "--sigma", "0.12")["sigma"] == 0.12
    for other in ({"sigma": 0}, {"sigma": "loud"}, {"sigma": True}, {"eps": 1}, [], None):
        assert "sigma" not in certified(other)


def verified(objective: Any, *words: str) -> list[dict[str, Any]]:
    arguments = parser().parse_args(["verify", "a.safetensors", *words])
    return verify.evaluators(arguments, {"objective": objective})


def test_verify_bounds_and_attacks_the_same_ball() -> None:
    words = ["--eps=2/255", "--bounds=ibp, crown", "--seconds=2*60", "--memory=0.5"]
    options = {"bounds": ["ibp", "crown"], "seconds": 120, "memory": 0.5}
    assert verified(None, *words) == [
        {"name": "clean"},
        {"name": "verified", "eps": 2 / 255, **options},
        {"name": "pgd", "eps": 2 / 255, "batch_size": 50},
    ]
    assert verified(None, "--eps", "0.1", "--no-attack") == [
        {"name": "clean"},
        {"name": "verified", "eps": 0.1},
    ]


def test_the_options_of_verify_are_those_of_the_evaluator() -> None:
    words = ["--eps=0.1", "--bounds=ibp,crown", "--seconds=9", "--memory=0.5"]
    document = verified(None, *words)[1]
    evaluator = evaluators.create(document.pop("name"), **document)
    assert document == {name: getattr(evaluator, name) for name in document}
    assert document.keys() == {"eps", "bounds", "seconds", "memory"}


@pytest.mark.parametrize(
    ("objective", "eps"),
    [
        ({"name": "crown_ibp", "eps": 0.01}, 0.01),
        ({"name": "trades", "eps": 0.02, "norm": "linf"}, 0.02),
        ({"name": "trades", "eps": 0.5, "norm": "l2"}, None),
        ({"name": "smoothadv", "eps": 0.5, "sigma": 0.25}, None),
        ({"name": "trades", "eps": 0}, None),
        ({"name": "benign"}, None),
        (None, None),
    ],
)
def test_the_radius_is_that_of_training_if_the_norm_fits(objective: Any, eps: float | None) -> None:
    if eps is not None:
        assert [part.get("eps") for part in verified(objective)] == [None, eps, eps]
        return
    with pytest.raises(UsageError, match=r"not trained for an l-infinity ball.*--eps 2/255"):
        verified(objective)
    assert verified(objective, "--eps", "0.1")[1]["eps"] == 0.1


@pytest.mark.usefixtures("parts")
def test_certify_prints_and_writes(command: Command, here: Path, model: Path) -> None:
    words = ["--samples", "7", "--json", "a/b.json", "--images", "a/b.csv", "--data", "digits"]
    said = command("certify", model, *words)
    assert (said.code, said.err) == (OK, "")
    assert " smoothing %" in said.out
    assert json.loads((here / "a" / "b.json").read_text())["metrics"]["smoothing_n"] == 7
    table = pyarrow.csv.read_csv(here / "a" / "b.csv")
    assert table.column_names == ["index", "label", "smoothing"]
    assert table["index"].to_pylist() == list(range(7))


@pytest.mark.usefixtures("parts")
def test_verify_exits_1_when_pgd_breaks_what_was_verified(
    command: Command, here: Path, model: Path
) -> None:
    """The stand-in verifies what is classified rightly."""
    outputs = ["--samples", "40", "--json", "a.json", "--images", "a.parquet"]
    said = command("verify", model, "--eps", "0.3", *outputs)
    assert said.code == FAULT
    assert said.err.count("  hydra-0.1: 'verified' verified and 'pgd' broke ") == 1
    assert said.err.count(f"  {model}: 'verified' verified and 'pgd' broke ") == 1
    assert "Please report it" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert "fault of robustprune" not in said.err
    for name in ("clean", "verified", "pgd"):
        assert f" {name} %" in said.out
    written = json.loads((here / "a.json").read_text())
    table = pq.read_table(here / "a.parquet").to_pydict()
    pairs = zip(table["verified"], table["pgd"], strict=True)
    broken = [i for i, (promised, robust) in enumerate(pairs) if promised and not robust]
    assert written["alarms"] == [{"certificate": "verified", "attack": "pgd", "images": broken}]


@pytest.mark.usefixtures("parts")
def test_without_the_attack_nothing_is_caught(command: Command, here: Path, model: Path) -> None:
    said = command("verify", model, "--eps", "0.3", "--samples", "9", "--no-attack")
    assert (said.code, said.err) == (OK, "")


def test_verify_proves_no_more_than_pgd_leaves(command: Command, here: Path, model: Path) -> None:
    """The real bounds, on a network of a real run."""
    words = ["--eps", "0.02", "--samples", "25", "--images", "a.csv", "--json", "a.json"]
    said = command("verify", model, "--bounds", "crown_ibp,ibp", *words)
    assert (said.code, said.err) == (OK, "")
    metrics = json.loads((here / "a.json").read_text())["metrics"]
    assert 0 < metrics["verified"] <= metrics["pgd"] <= metrics["clean"]
    assert metrics["verified_ibp"] <= metrics["verified"]
    assert " verified_ibp %" in said.out
    table = pyarrow.csv.read_csv(here / "a.csv").to_pydict()
    for right, proved, by, robust in zip(
        *(table[name] for name in ("clean", "verified", "verified_by", "pgd")), strict=True
    ):
        assert proved == (by in (0, 1))
        assert right == (by != -3)
        assert right >= robust >= proved


def test_verify_says_what_it_left_out(command: Command, here: Path, model: Path) -> None:
    words = ["--eps", "0.1", "--samples", "9", "--no-attack", "--memory", "1e-6"]
    said = command("verify", model, *words)
    assert said.code == OK
    (line,) = said.err.splitlines()
    assert line.startswith("warning: evaluator 'verified' left bounds out on network 'hydra-0.1'")
    assert re.search("'crown' for . images? .*the limit is 1e-06", line)
    assert " verified_left_out %" in said.out
    assert " pgd %" not in said.out


def test_bounds_that_lie_are_caught(
    command: Command, here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def margins(self: Any, model: Any, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        return images.new_full((len(images), 9), 1e9)

    monkeypatch.setattr("robustprune.adapters.bounds.Bounds.margins", margins)
    said = command("verify", model, "--eps", "0.3", "--samples", "20", "--images", "a.parquet")
    assert said.code == FAULT
    assert "SOUNDNESS ALARM" in said.err
    assert "hydra-0.1: 'verified' verified and 'pgd' broke" in said.err
    table = pq.read_table(here / "a.parquet").to_pydict()
    assert table["verified"] == table["clean"]


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--bounds", "ibp,crwn"], "should be 'ibp', 'crown_ibp', 'crown' or 'alpha_crown'"),
        (["--bounds", "ibp,ibp"], "a bound stands twice"),
        (["--memory", "0"], "memory: should be greater than 0"),
        (["--seconds", "0"], "seconds: should be greater than 0"),
        (["--eps", "0"], "eps: should be greater than 0"),
    ],
)
def test_bad_options_of_verify_are_told(
    words: list[str], fragment: str, command: Command, here: Path, model: Path
) -> None:
    said = command("verify", model, "--eps", "0.1", *words)
    assert (said.code, said.out) == (USAGE, "")
    assert fragment in said.err
    assert "Traceback" not in said.err


def test_evaluate_writes_what_the_run_wrote(command: Command, here: Path, model: Path) -> None:
    assert command("evaluate", model, "--images", "images.parquet").code == OK
    expected = model.with_name("images.parquet").read_bytes()
    assert (here / "images.parquet").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.usefixtures("parts")
def test_a_run_with_an_alarm_exits_1_and_shows_it(command: Command, here: Path) -> None:
    recipe = tiny.write(here, tiny.SMALL, {"evaluate": [LIAR, PGD]})
    for words in ([], ["--resume"]):
        said = command("run", recipe, "--out", "run", "--quiet", *words)
        assert (said.code, said.out) == (FAULT, "")
        assert said.err.count("error: SOUNDNESS ALARM") == 3  # of each network, and in the end
        assert said.err.splitlines()[-1] == "written to run"
        assert "Traceback" not in said.err
    assert "tiny, seed 0, SOUNDNESS ALARM" in command("show", here / "run").out
