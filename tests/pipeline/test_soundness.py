"""A certificate that an attack refutes is an alarm: at once, in the results, and at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts.reading import read_model
from robustprune.errors import InterruptedRun, SoundnessError
from robustprune.evaluators import create
from robustprune.pipeline import RunResult
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.images import ImageTable
from robustprune.pipeline.sanity import alarm_text, alarms
from robustprune.tracking import Console

from . import liars, tiny

pytestmark = pytest.mark.slow


LIAR = {"name": "liar", "eps": 0.3, "samples": 100}
PGD = {"name": "pgd", "label": "pgd", "eps": 0.3, "steps": 3, "samples": 64, "batch_size": 40}
LYING = (tiny.SMALL, {"evaluate": [LIAR, PGD]})


class Alarmed(Console):
    """Keeps errors, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def error(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    with liars.registered(liar=liars.Gullible, careful=liars.Careful):
        yield


def table(**entries: list[bool]) -> ImageTable:
    found = ImageTable()
    for name, values in entries.items():
        labels = torch.zeros(len(values), dtype=torch.int64)
        found.add(name, labels, {name: torch.tensor(values)})
    return found


def test_images_that_both_have_judged_are_compared() -> None:
    evaluators = [create("liar", eps=0.1), create("pgd", eps=0.1), create("clean")]
    said = table(
        liar=[True, False, True, True], pgd=[True, False, False], clean=[True, False, False]
    )
    assert alarms(evaluators, said) == [{"certificate": "liar", "attack": "pgd", "images": [2]}]


@pytest.mark.parametrize(
    ("attack", "comparable"),
    [
        ({"eps": 0.1}, True),
        ({"eps": 0.05}, True),
        ({"eps": 0.1 * (1 + 1e-9)}, True),  # the same number, computed in another way
        ({"eps": 0.1001}, False),
        ({"eps": 0.05, "norm": "l2"}, False),
    ],
)
def test_an_attack_refutes_a_ball_of_its_norm_that_holds_its_own(
    attack: dict[str, Any], comparable: bool
) -> None:
    found = alarms(
        [create("pgd", **attack), create("liar", eps=0.1)], table(liar=[True], pgd=[False])
    )
    assert bool(found) == comparable


def test_each_pair_is_an_alarm_of_its_own() -> None:
    evaluators = [
        create("liar", eps=0.1),
        create("liar", eps=0.2, label="liar2"),
        create("pgd", eps=0.1),
        create("pgd", eps=0.2, label="pgd2"),
    ]
    said = table(liar=[True], liar2=[True], pgd=[False], pgd2=[False])
    pairs = [(alarm["certificate"], alarm["attack"]) for alarm in alarms(evaluators, said)]
    assert pairs == [("liar", "pgd"), ("liar2", "pgd"), ("liar2", "pgd2")]


def test_it_is_said_which_images_and_what_to_do() -> None:
    found = [
        {"certificate": "ibp", "attack": "pgd", "images": [7]},
        {"certificate": "crown", "attack": "pgd", "images": list(range(30))},
    ]
    text = alarm_text({"hydra-0.1": found})
    assert "hydra-0.1: 'ibp' verified and 'pgd' broke image 7\n" in text
    assert "'crown' verified and 'pgd' broke 30 images: 0, 1, 2" in text
    assert "19 and 10 more" in text
    assert "do not use the certificates" in text
    assert "report" in text


def lied(folder: Path, **options: Any) -> tuple[str, list[str]]:
    """What a run with a liar raises, and what it says meanwhile."""
    console = Alarmed()
    with pytest.raises(SoundnessError) as caught:
        tiny.go(folder, *LYING, console=console, **options)
    return str(caught.value), console.texts


def test_the_run_goes_on_writes_it_down_and_raises_at_the_end(tmp_path: Path) -> None:
    text, said = lied(tmp_path / "run")
    assert [re.findall("  (.*): 'liar' verified", line) for line in said] == [
        ["dense"],
        ["hydra-0.1"],
    ]
    assert "dense: 'liar' verified and 'pgd' broke" in text
    assert str(tmp_path / "run") in text
    assert (tmp_path / "run" / "state" / "finished").exists()
    result = RunResult(tmp_path / "run", tiny.results(tmp_path / "run"))
    assert result.alarms.keys() == {"dense", "hydra-0.1"}
    assert result.title.endswith("SOUNDNESS ALARM")
    for name, found in result.alarms.items():
        saved = read_model(result.folder / name / "model.safetensors")
        assert saved.metadata["alarms"] == found  # so that an export's card tells them
        images = ImageTable.read(tmp_path / "run" / name / "images.parquet", ["liar", "pgd"])
        verified, robust = images.entries("liar")["liar"][:64], images.entries("pgd")["pgd"]
        broken = [i for i in range(64) if verified[i] and not robust[i]]
        assert found == [{"certificate": "liar", "attack": "pgd", "images": broken}]
        assert result.network(name)["metrics"]["liar_n"] == 100


def test_a_finished_run_says_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lied(tmp_path / "run")
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("robustprune.pipeline.evaluate.judge", unwanted)
        assert lied(tmp_path / "run", resume=True) == first
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("damage", [None, b"", b"PAR1 and then nothing"])
def test_tables_that_are_lost_are_made_again(tmp_path: Path, damage: bytes | None) -> None:
    first = lied(tmp_path / "run")
    before = contents(tmp_path / "run")
    path = tmp_path / "run" / "hydra-0.1" / "images.parquet"
    path.unlink() if damage is None else path.write_bytes(damage)
    assert lied(tmp_path / "run", resume=True) == first
    assert contents(tmp_path / "run") == before


def test_it_works_across_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate has spoken in one process, the attack in another."""
    whole = lied(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("robustprune.evaluators.attacks.Pgd.judge", interrupt)
        with pytest.raises(InterruptedRun):
            tiny.go(tmp_path / "run", *LYING)
    assert "alarms" not in tiny.results(tmp_path / "run")["networks"][0]
    assert tiny.results(tmp_path / "run")["networks"][0]["metrics"].keys() >= {"liar"}
    with monkeypatch.context() as patch:
        judged = count(patch)
        assert lied(tmp_path / "run", resume=True)[1] == whole[1]
    assert judged == ["dense pgd", "hydra-0.1 liar", "hydra-0.1 pgd"]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_sound_certificate_raises_nothing(tmp_path: Path) -> None:
    console = Alarmed()
    evaluate = [{**LIAR, "name": "careful"}, {**LIAR, "eps": 0.01}, PGD]
    result = tiny.go(tmp_path / "run", tiny.SMALL, {"evaluate": evaluate}, console=console)
    assert console.texts == []
    assert result.alarms == {}
    assert all("alarms" not in entry for entry in result.networks)


def test_a_label_that_tables_use_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'index' is the name of a column"):
        tiny.go(tmp_path / "run", {"evaluate": [{"name": "clean", "label": "index"}]})
    assert not (tmp_path / "run").exists()


def count(patch: pytest.MonkeyPatch) -> list[str]:
    """The judgements that are made from now on."""
    from robustprune.pipeline import evaluate

    original, made = evaluate.judge, []

    def judge(evaluator: Any, subject: Subject, **options: Any) -> Any:
        made.append(f"{subject.network} {evaluator.metric}")
        return original(evaluator, subject, **options)

    patch.setattr(evaluate, "judge", judge)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def unwanted(*args: Any, **options: Any) -> None:
    raise AssertionError("done again")
