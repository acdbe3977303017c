from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import UsageError
from robustprune.report import write_report

from . import made

SECTIONS = ["results", "accuracy", "cost", "security", "certified", "weights", "layers", "curves"]
SECTIONS.append("images")


@pytest.mark.slow
def test_the_page_has_every_section_and_needs_no_other_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    assert "Not shown" not in text
    addresses = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]{1,12})', text)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in text
    assert "default-src 'none'" in text


@pytest.mark.slow
def test_every_figure_lies_in_a_folder_and_has_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    alts = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]*)">', text)
    folder = page.parent / "report-figures"
    assert len(alts) == 4 + 2 + 2 + 2 + 2 + 2 + 6 + 1
    assert len(list(folder.glob("*.svg"))) == len(list(folder.glob("*.pdf"))) == len(alts)
    assert all(len(alt) > 40 for alt in alts)
    assert text.count("<figcaption>tiny: ") == len(alts)
    assert len(text) < 450_000


@pytest.mark.slow
def test_the_numbers_of_the_table_are_the_runs(page: Path) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", page.read_text(encoding="utf-8"))
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    hydra, measures = [row for row in cells if row[0] == "hydra-0.01"]
    assert measures[1:] == ["1,180", "3,540"]
    assert hydra[1:5] == ["0.01", "295", "25.0", "70.0 (60.0–75.0)"]


def _no_attack(document: dict[str, Any]) -> None:
    document["params"]["evaluate"] = document["params"]["evaluate"][:1]


@pytest.mark.slow
def test_equal_input_gives_an_equal_page(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_no_attack)
    first, second = (write_report([path], tmp_path / n / "a.html") for n in ("x", "y"))
    assert first.read_bytes() == second.read_bytes()
    pictures = [*first.parent.glob("a-figures/*")]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.read_bytes() == (second.parent / "a-figures" / picture.name).read_bytes()


def _measured(document: dict[str, Any]) -> None:
    for network in document["networks"]:
        network["measures"] = {}
    for network in document["networks"][:2]:
        flops = {"dense": 12_345_678, "sparse": 12.345, "layers": {"0": {"dense": 1}}}
        network["measures"] = {"flops": flops}


@pytest.mark.usefixtures("undrawn")
def test_numbers_of_measures_are_a_table(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_measured)
    text = write_report([path], tmp_path / "a.html").read_text(encoding="utf-8")
    assert '<th scope="col">flops dense</th><th scope="col">flops sparse</th></tr>' in text
    assert text.count("<td>12,345,678</td><td>12.35</td>") == 2


HOSTILE = """</title><script>alert('x')</script><img src=x onerror="f()"> $\\frac{$ {{ 7*7 }}"""


def _hostile(document: dict[str, Any]) -> None:
    document["recipe"] = HOSTILE
    document["environment"]["torch"] = HOSTILE
    document["params"]["paper"] = {"source": HOSTILE}
    document["networks"][1]["name"] = HOSTILE
    document["networks"][2]["alarms"] = [
        {"certificate": HOSTILE, "attack": HOSTILE, "images": [1]}
    ]  # fmt: skip
    for network in document["networks"]:
        network["metrics"] |= {HOSTILE: 0.5, f"{HOSTILE}_n": 2, f"{HOSTILE}_interval": [0, 1]}


@pytest.mark.usefixtures("undrawn")
def test_what_a_run_says_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_hostile)
    text = write_report([path], tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert html.escape(HOSTILE, quote=False).partition("'")[0] in text
    assert "{{ 7*7 }}" in text
    assert not any(set(p.name) & set("<>/$'\"") for p in tmp_path.iterdir())


def _cut(document: dict[str, Any]) -> None:
    document["max_steps"] = 2


def _alarm(document: dict[str, Any]) -> None:
    alarm = {"certificate": "crown", "attack": "pgd", "images": [1]}
    document["networks"][1]["alarms"] = [alarm]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_alarms_come_before_all_else(tmp_path: Path) -> None:
    paths = [
        made.folder(tmp_path / "cut", 0, files=False, change=_cut),
        made.folder(tmp_path / "bad", 1, files=False, change=_alarm),
    ]
    text = write_report(paths, tmp_path / "a.html").read_text(encoding="utf-8")
    banner = text.index('role="alert"')
    alarm, cut = text.index("SOUNDNESS ALARM for hydra-0.1", banner), text.index("cut at 2", banner)
    assert banner < alarm < cut < text.index("<section")


@pytest.mark.slow
def test_a_sound_whole_run_alarms_nobody(page: Path) -> None:
    assert 'role="alert"' not in page.read_text(encoding="utf-8")


def _cited(document: dict[str, Any]) -> None:
    document["params"]["paper"] = {"source": "Table 9", "metrics": {"pgd": {"dense": 0.519}}}


def _not_transcribed(document: dict[str, Any]) -> None:
    document["params"]["paper"] = {"source": "Table 9", "metrics": None}


@pytest.mark.usefixtures("undrawn")
def test_the_papers_numbers_are_in_the_table(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_cited)
    text = write_report([path], tmp_path / "a.html").read_text(encoding="utf-8")
    assert '<th scope="col">pgd, paper (%)</th>' in text
    assert "<td>51.9</td>" in text
    assert "tiny follows Table 9." in text


@pytest.mark.usefixtures("undrawn")
def test_a_paper_without_numbers_is_cited_all_the_same(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_not_transcribed)
    text = write_report([path], tmp_path / "a.html").read_text(encoding="utf-8")
    assert "tiny follows Table 9; paper: not transcribed." in text


@pytest.mark.usefixtures("undrawn")
def test_one_folder_named_twice_is_one_run(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False)
    out = write_report([path, path / ".." / "run"], tmp_path / "a.html")
    assert "1 run, seed 0" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"), [("report.pdf", "ends in .html"), ("folder.html", "it is a folder")]
)
def test_a_page_that_cannot_be_written_is_told_at_once(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=words):
        write_report([tmp_path / "never read"], tmp_path / name)


@pytest.mark.usefixtures("undrawn")
def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = made.folder(tmp_path / "run", files=False)
    with pytest.raises(UsageError, match="Name another file with --out"):
        write_report([path], tmp_path / "file" / "a.html")


def _alike(document: dict[str, Any]) -> None:
    for part, label in zip(document["params"]["evaluate"], ("a-b", "a.b"), strict=False):
        part["label"] = label
    for network in document["networks"]:
        for label in ("a-b", "a.b"):
            found = {label: 0.5, f"{label}_n": 2, f"{label}_interval": [0, 1]}
            network["metrics"] |= found


@pytest.mark.usefixtures("undrawn")
def test_figures_whose_names_collide_all_stay(tmp_path: Path) -> None:
    path = made.folder(tmp_path / "run", files=False, change=_alike)
    write_report([path], tmp_path / "a.html")
    names = {file.name for file in tmp_path.glob("a-figures/accuracy-*.svg")}
    assert {"accuracy-tiny-a-b.svg", "accuracy-tiny-a-b-2.svg"} <= names


def test_nothing_to_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_report([], tmp_path / "a.html")
