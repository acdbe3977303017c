"""Tables for papers and programs: what stands in them, and that LaTeX takes them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import UsageError
from robustprune.report.groups import Group, grouped
from robustprune.report.paper import (
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    results_records,
    results_sheet,
)
from robustprune.report.runs import read_run

from . import made

HOSTILE = r"\input{x} 50% & $x_1^2$ #~{} <a|b> \\" + "\nnext"


def _tie(document: dict[str, Any]) -> None:
    """A difference that no printed digit shows."""
    document["networks"][1]["metrics"]["pgd"] += 1e-4


def _hostile(document: dict[str, Any]) -> None:
    document["recipe"] = document["networks"][1]["name"] = HOSTILE


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    place = tmp_path_factory.mktemp("paper")
    return made.group(
        *(made.folder(place / str(s), s, files=False, more=s / 20, change=_tie) for s in range(3))
    )


def rows(latex: str) -> list[list[str]]:
    """The cells of a table's rows, by a reader of its own."""
    lines = re.findall(r"^([^%\\].*|\\textbf.*|\s&.*) \\\\$", latex, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def test_the_best_of_each_density_is_bold_and_ties_are_too(group: Group) -> None:
    found = rows(as_latex(results_sheet([group], ["clean", "pgd"], "std")))
    deviation = f"$\\pm$ {100 * statistics.stdev([0, 0.05, 0.1]):.1f}"
    assert found[0] == ["density", "method", "clean (\\%)", "pgd (\\%)"]
    assert found[1] == ["1", "dense", f"95.0 {deviation}", f"80.0 {deviation}"]  # best of one
    tied = f"\\textbf{{67.5}} {deviation}"
    assert found[2] == ["0.1", "hydra", f"\\textbf{{85.0}} {deviation}", tied]
    assert found[3] == ["", "magnitude", f"\\textbf{{85.0}} {deviation}", tied]
    assert found[4][3] == f"\\textbf{{55.0}} {deviation}"
    assert found[5] == ["", "magnitude", f"55.0 {deviation}", f"30.0 {deviation}"]


def _lighter(document: dict[str, Any]) -> None:
    document["networks"][3]["measures"]["size"]["bytes_packed"] -= 1


def test_of_a_cost_the_least_is_the_best_and_of_a_count_none(tmp_path: Path) -> None:
    group = made.group(made.folder(tmp_path / "a", files=False, change=_lighter))
    text = as_markdown(results_sheet([group], ["size/bytes_packed", "kept"], "interval"))
    assert "|  | magnitude | **11,787** | 2,947 |" in text
    assert "| 0.1 | hydra | 11,788 | 2,947 |" in text


def _certified(document: dict[str, Any]) -> None:
    for place, network in enumerate(document["networks"]):
        share = place / 10
        network["turnover"] = share
        about = {"_abstained": share, "_abstained_n": 10, "_abstained_interval": [0, 1]}
        network["metrics"] |= {f"smoothing{key}": value for key, value in about.items()}
        network["measures"]["latency"] = {"milliseconds": 2.5, "threads": 4 + place}


def test_what_is_neither_better_high_nor_low_has_no_best(tmp_path: Path) -> None:
    group = made.group(made.folder(tmp_path / "a", files=False, change=_certified))
    names = ["turnover", "smoothing_abstained", "latency/threads"]
    assert "**" not in as_markdown(results_sheet([group], names, "none"))
    assert "**2.5**" in as_markdown(results_sheet([group], ["latency/milliseconds"], "none"))


def _unmeasured(document: dict[str, Any]) -> None:
    for network in document["networks"]:
        network["metrics"] = {}
        network["measures"]["size"]["bytes_packed"] = float("nan")


def test_networks_that_nothing_has_measured_have_rows_too(tmp_path: Path) -> None:
    group = made.group(made.folder(tmp_path / "a", files=False, change=_unmeasured))
    found = rows(as_latex(results_sheet([group], [], "std")))
    assert [row[1] for row in found[1:]] == ["dense", *["hydra", "magnitude"] * 2]
    assert "size/bytes_packed" not in group.numbers
    assert "NaN" not in as_json(results_records([group]))


def test_several_recipes_have_a_column_and_the_interval_is_an_option(tmp_path: Path) -> None:
    paths = [made.folder(tmp_path / "a", files=False)]
    paths.append(made.folder(tmp_path / "b", files=False, change=_hostile))
    groups = grouped([read_run(path) for path in paths])
    text = as_markdown(results_sheet(groups, ["pgd"], "interval"))
    assert "| density | method | recipe | pgd (%) |" in text
    assert "| 0.1 | hydra | tiny | **62.5** (52.5–67.5) |" in text
    assert r"\\input\{x\} 50% & $x\_1^2$ \#~\{\} \<a\|b\> \\\\ next" in text
    assert max(len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()) == 5


@pytest.mark.slow
def test_latex_compiles_whatever_names_hold(group: Group, tmp_path: Path) -> None:
    bad = made.group(made.folder(tmp_path / "bad", files=False, change=_hostile))
    table = as_latex(results_sheet([group, bad], [], "interval"))
    columns = re.search(r"\{(l+r+)\}", table)
    assert columns is not None
    assert {len(row) for row in rows(table)} == {len(columns[1])}
    assert table.count("{") == table.count("}") + table.count(r"\{") - table.count(r"\}")
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex")
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "a.tex").write_text(f"{head}\\small\n{table}\n\\end{{document}}\n", "utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "a.pdf").stat().st_size > 1000


def test_programs_get_every_number_in_full(group: Group) -> None:
    records = results_records([group])
    (pgd,) = [r for r in records if (r["network"], r["metric"]) == ("hydra-0.1", "pgd")]
    values = [0.6251, 0.6751, 0.7251]
    assert pgd["values"] == pytest.approx(values, abs=1e-12)
    assert (pgd["mean"], pgd["std"]) == (pytest.approx(0.6751), pytest.approx(0.05))
    assert (pgd["runs"], pgd["images"], pgd["density"]) == (3, 8, 0.1)
    assert {"kept", "turnover", "size/bytes_packed"} <= {r["metric"] for r in records}
    assert json.loads(as_json(records)) == records
    read = list(csv.DictReader(io.StringIO(as_csv(records))))
    assert list(read[0]) == [
        "recipe", "method", "density", "network", "metric", "mean", "std", "low", "high", "runs",
        "images", "values",
    ]  # fmt: skip
    assert [float(row["mean"]) for row in read] == [r["mean"] for r in records]
    assert len(results_records([group], ["pgd"])) == 5


def test_a_metric_that_nobody_measured_is_told(group: Group) -> None:
    with pytest.raises(UsageError, match=r"'pgd_2'.*Did you mean 'pgd_0.2'"):
        results_sheet([group], ["pgd_2"], "std")
