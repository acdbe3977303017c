from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustprune import tracking
from robustprune.pipeline import RunResult

from ..report import made
from ..report.conftest import undrawn  # noqa: F401
from .conftest import Command

pytestmark = pytest.mark.usefixtures("undrawn")


def test_a_run_is_reported_and_the_page_is_named(
    command: Command, small: RunResult, here: Path
) -> None:
    said = command("report", small.folder, "--out", "deep/page.html")
    assert (said.code, said.err) == (0, "")
    assert said.out == "written to deep/page.html\n"
    text = (here / "deep" / "page.html").read_text(encoding="utf-8")
    accuracy = small.network("hydra-0.1")["metrics"]["pgd"]
    assert f"<td>{100 * accuracy:.1f} (" in text
    assert "the model files are not there" not in text
    assert list((here / "deep").glob("page-figures/weights-*.pdf"))


@pytest.mark.slow
def test_the_page_of_one_run_folder_lies_in_it(command: Command, here: Path) -> None:
    path = made.folder(here / "run", files=False)
    assert command("report", path).out == f"written to {path / 'report' / 'report.html'}\n"
    other = made.folder(here / "other", 1, files=False)
    assert command("report", path, other).out == "written to report.html\n"
    assert "2 runs, seeds 0, 1" in (here / "report.html").read_text(encoding="utf-8")


def test_runs_are_compared(command: Command, here: Path) -> None:
    paths = [made.folder(here / str(s), s, files=False, more=s / 10) for s in (0, 1)]
    other = made.folder(here / "b", files=False, change=lambda d: d["params"].update(name="other"))
    said = command("compare", *paths, other)
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()]
    first, second = [row for row in rows if row[:1] == ["hydra-0.01"]]
    assert first[:6] == ["hydra-0.01", "tiny", "(0)", "2", "25.0", "75.0"]
    assert second[:7] == ["hydra-0.01", "tiny", "(b)", "1", "25.0", "70.0", "(60.0–75.0)"]
    same = made.folder(here / "same", files=False)
    assert "the recipes do not differ" in command("compare", paths[0], same).out
    differences = [row for row in rows if row[:1] == ["name"]]
    assert differences == [["name", '"tiny"', "tiny", "(0)"], ["name", '"other"', "tiny", "(b)"]]


def test_alarms_are_told_by_compare(command: Command, here: Path) -> None:
    def alarm(document: dict[str, object]) -> None:
        network = document["networks"][1]  # type: ignore[index]
        network["alarms"] = [{"certificate": "crown", "attack": "pgd", "images": [1]}]

    said = command("compare", made.folder(here / "a", files=False, change=alarm))
    assert said.code == 0
    assert "error: tiny, seed 0: SOUNDNESS ALARM" in said.err


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_run_of_mlflow_is_fetched(
    name: str, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download_run(run: str, uri: str | None, into: Path) -> Path:
        asked.append((run, uri))
        assert into.is_dir()
        return made.folder(into / "fetched", files=False)

    monkeypatch.setattr(tracking, "download_run", download_run, raising=False)
    said = command(name, "mlflow:quickstart", "--uri", "http://localhost:5000")
    assert (said.code, said.err) == (0, "")
    assert asked == [("quickstart", "http://localhost:5000")]
    assert (here / "report.html").exists() == (name == "report")


@pytest.mark.parametrize("name", ["report", "compare"])
def test_what_is_no_run_is_a_mistake_of_the_user(name: str, command: Command, here: Path) -> None:
    made.folder(here / "runs" / "tiny" / "first", files=False)
    (here / "results.json").write_text(json.dumps({"version": 1}))
    for run, message in (
        ("runs/tiny/frist", "Did you mean 'runs/tiny/first'?"),
        ("mlflow:", "mlflow:<id>"),
        (here, "was not written by a run (recipe: Field required)"),
    ):
        said = command(name, run)
        assert (said.code, said.out) == (2, "")
        assert message in said.err


def test_a_paper_gets_its_table_and_its_figures(command: Command, here: Path) -> None:
    paths = [made.folder(here / str(s), s, files=False, more=s / 10) for s in (0, 1)]
    said = command("compare", *paths, "--out", "deep/table.tex", "--figures", "drawn")
    told = f"written to {Path('deep/table.tex')}\nfigures written to drawn\n"
    assert (said.code, said.out, said.err) == (0, told, "")
    text = (here / "deep" / "table.tex").read_text(encoding="utf-8")
    assert "0.01 & hydra & \\textbf{75.0} $\\pm$ 7.1 &" in text
    assert text.endswith("\\end{tabular}\n")
    assert (here / "drawn" / "accuracy-tiny-pgd.pdf").exists()
    assert (here / "drawn" / "cost-tiny-pgd-size-bytes-packed.svg").exists()
    said = command("compare", *paths, "--format", "csv", "--metrics", "pgd,kept")
    assert said.out.startswith("recipe,method,density,network,metric,mean,")
    assert len(said.out.splitlines()) == 1 + 2 * 5
    table = command("compare", *paths, "--spread", "std", "--metrics", "pgd").out
    (row,) = [line.split() for line in table.splitlines() if "hydra-0.01" in line]
    assert row == ["hydra-0.01", "tiny", "2", "25.0", "55.0", "±", "7.1"]


def test_methods_are_paired_in_every_format(command: Command, here: Path) -> None:
    paths = [made.folder(here / str(s), s, files=False, more=s / 10) for s in (0, 1)]
    said = command("compare", *paths, "--paired", "magnitude")
    assert "differences to magnitude" in said.out
    assert "runs without images.parquet have no test over images" in said.out
    said = command("compare", *paths, "--paired", "magnitude", "--format", "json")
    found = json.loads(said.out)
    assert [row["seed"] for row in found[:3]] == ["all", 0, 1]
    assert {row["baseline"] for row in found} == {"magnitude"}
    said = command("compare", *paths, "--paired", "magnitud")
    assert (said.code, said.out) == (2, "")
    assert "Did you mean 'magnitude'?" in said.err
