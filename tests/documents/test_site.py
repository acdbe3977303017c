"""The documentation site: it builds strictly, fetches nothing, and shows what it is read off."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import robustprune as rp
from robustprune.cli.main import parser
from robustprune.families import FAMILIES, family
from robustprune.models import BACKBONES

from .markdown import ROOT

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
RESULTS = ROOT / "benchmarks" / "results"
TAGS = """
a article blockquote body br button caption code dd defs del desc details div dl dt em figure footer
form g h1 h2 h3 h4 h5 h6 head header hr html img input kbd label li link main marker meta nav ol p
path pre rect script section small span strong style sub summary sup svg table tbody td text th
thead title tr ul
"""
"""Anything else is ``<text>`` that was taken for a tag, and which a browser does not show."""


class _Read(HTMLParser):
    """The ids and tags of a page, and the addresses that a browser fetches by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = {name: value for name, value in attributes if value}
        self.ids |= {values["id"]} if "id" in values else set()
        followed = tag in ("a", "area")
        addresses = {values[name] for name in ("src", "href", "data") if name in values}
        self.fetched |= set() if followed else addresses


def mkdocs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    names = ("commands", "ours", "pages", "recorded", "registries")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return {name: __import__(name) for name in names}


@pytest.mark.slow
def test_site_builds_fetches_nothing_and_leaves_nothing_out(tmp_path: Path):
    built = mkdocs("--site-dir", tmp_path)
    assert built.returncode == 0, built.stderr
    pages = {p.relative_to(tmp_path).as_posix(): _Read(p) for p in tmp_path.rglob("*.html")}

    fetched = {address for page in pages.values() for address in page.fetched}
    assert "../assets/site.css" in fetched
    assert not [a for a in fetched if re.match(r"(?!data:)\w+:|//", a)]
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", style.read_text()), style

    assert set().union(*(page.tags for page in pages.values())) <= set(TAGS.split())
    for name in FAMILIES:
        assert set(family(name).names()) <= pages[f"reference/{name}.html"].ids
    public = set(rp.__all__) - {"__version__", "masking", *FAMILIES}
    assert {f"robustprune.{name}" for name in public} <= pages["reference/api.html"].ids
    assert {"masking", "registries"} <= pages["reference/api.html"].ids
    assert "../source/robustprune/radii.html" in (tmp_path / "how-to/parts.html").read_text()
    for recorded in RESULTS.glob("*/README.md"):
        assert f"results/{recorded.parent.name}/index.html" in pages
    assert "the-packed-format-versions-1-and-2" in pages["reference/packed.html"].ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "fails"),
    [("index.md#home", 0), ("nowhere.md", 1), ("index.md#nowhere", 1), ("/absolute.md", 1)],
)
def test_a_link_that_leads_nowhere_fails_the_build(link: str, fails: int, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n[away]({link})\n")
    config = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": "docs", "nav": ["index.md"]}
    config |= {"hooks": [], "plugins": [], "exclude_docs": ""}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(config))
    built = mkdocs("--config-file", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site")
    assert built.returncode == fails, built.stderr
    assert (link in built.stderr) == bool(fails)


@pytest.mark.parametrize("name", FAMILIES)
def test_page_of_a_registry_has_every_option(name: str, hooks: dict[str, ModuleType]):
    page = hooks["registries"].family_page(name)
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == family(name).names()
    for part, section in sections.items():
        for key, field in family(name).get(part).model_fields.items():
            meaning = hooks["pages"].cell(field.description or "")
            assert re.search(rf"^\| `{key}` \|.*\| {re.escape(meaning)} \|$", section, re.MULTILINE)


def test_prose_keeps_what_looks_like_a_tag(hooks: dict[str, ModuleType]):
    pages = hooks["pages"]
    assert pages.prose("a < b, <root> and `<id>` or ``a ` <b>``") == (
        "a &lt; b, &lt;root> and `<id>` or ``a ` <b>``"
    )
    assert pages.cell("one |\n <two>") == "one \\| &lt;two>"
    assert (pages.code("a | <b>"), pages.code("")) == ("`a \\| <b>`", "")


def test_options_are_shown_with_type_and_default(hooks: dict[str, ModuleType]):
    registries = hooks["registries"]
    rows = registries.family_page("evaluators").splitlines()
    assert "| `norm` | linf \\| l2 | `linf` | Which ball the adversary moves in. |" in rows
    rows = registries.family_page("pruners").splitlines()
    found = [row for row in rows if row.startswith("| `allocation`")]
    assert any("| [allocations](allocations.md) | `uniform` | " in row for row in found)
    rows = registries.family_page("objectives").splitlines()
    assert any(row.startswith("| `ramp.epochs` | float | `0` | ") for row in rows)
    rows = registries.recipe_page().splitlines()
    assert "| `data` | [datasets](datasets.md) | **required** | The images. |" in rows
    assert any(
        row.startswith("| `methods` | [pruners](pruners.md) | **required** |") for row in rows
    )
    assert any(row.startswith("| `finetune` | [options](#pretrain) |  |") for row in rows)
    assert "## `pretrain:` and `finetune:` {#pretrain}" in rows
    assert any(row.startswith("| `channels_last` | bool | `False` | ") for row in rows)
    assert all(f"| `{name}` |" in registries.models_page() for name in BACKBONES)


def test_page_of_the_commands_has_every_option(hooks: dict[str, ModuleType]):
    page = hooks["commands"].page()
    sections = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    usage = parser().format_help()
    assert {f"    {name}" for name in sections} == set(re.findall(r"^    [\w-]+", usage, re.M))
    assert "| `--max-steps N` | cut each stage after N optimizer steps |" in sections["run"]
    assert "| `--format NAME[:KEY=VALUE,…]` | " in sections["export"]
    assert "| `--resume` | " in sections["run"]
    assert sections["list"].startswith("\n`robustprune list [family] [pattern]`")


@pytest.mark.parametrize(
    ("metric", "objective"),
    [
        ("pgd", "trades"),
        ("autoattack-10", "pgd"),
        ("smoothing", "stability"),
        ("crown", "crown_ibp"),
    ],
)
def test_ours_are_the_recorded_tables(metric: str, objective: str, hooks: dict[str, ModuleType]):
    rows = [
        row.strip("| ").split(" | ") for row in hooks["ours"].ours(metric, [objective]).splitlines()
    ]
    assert len(rows) >= 4
    for link, _, _, method, dense, *pruned in rows[2:]:
        folder = re.match(r"\[([\w-]+)\]", link)[1]  # type: ignore[index]
        recorded = _recorded(RESULTS / folder / "README.md", metric)
        names = [f"{method.lower()}-{density}" for density in ("0.1", "0.05", "0.01")]
        assert [dense, *pruned] == [recorded.get(name, "–") for name in ["dense", *names]]


def test_ours_names_the_ball_and_the_runs(hooks: dict[str, ModuleType]):
    rows = hooks["ours"].ours("pgd", ["trades"]).splitlines()
    link = "[cifar10-cnn-small-trades](results/cifar10-cnn-small-trades/README.md)"
    assert f"| {link} | ℓ∞ 8/255 | 3 × 1,000 | HYDRA | 25.6 | 24.9 | 21.6 | 17.1 |" in rows
    assert " | ℓ2 110/255 | 1 × 200 | " in hooks["ours"].ours("smoothing", ["stability"])
    with pytest.raises(ValueError, match="no recorded run has 'pgd'"):
        hooks["ours"].ours("pgd", ["unheard_of"])


def test_gains_of_the_paper_page_are_those_computed_by_hand():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [A-Z].*, .* \| (magnitude|HYDRA) \| (.*) \|$", text, re.MULTILINE)
    numbers = [[float(cell) for cell in cells.split(" | ")] for _, cells in rows]
    assert [method for method, _ in rows] == ["magnitude", "HYDRA"] * 8
    gains = [
        [round(ours - theirs, 1) for ours, theirs in zip(hydra, magnitude, strict=True)]
        for magnitude, hydra in zip(numbers[::2], numbers[1::2], strict=True)
    ]
    era = [[0, 0.7, 3.5, 7.4], [0, 1.4, 5.0, 10.0], [0, 0.9, 1.3, 17.8], [0, 3.4, 6.4, 7.1]]
    smoothed = [[0, 1.1, 3.1, 10.3], [0, 2.0, 2.6, 6.9], [0, 0, -0.5, 6.7], [0, 0.1, 0.6, 14.6]]
    assert gains == era + smoothed


def test_recorded_pages_keep_links_inside_and_drop_those_outside(hooks: dict[str, ModuleType]):
    recorded = hooks["recorded"]
    page = recorded._recorded(RESULTS / "README.md")
    assert "`benchmarks/seeds.py`" in page
    assert "](../" not in page
    assert recorded.recorded_page(RESULTS / "speed" / "step.md") == "results/speed/step.md"
    every = {path.stem for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {
        title.split("/")[-1] for title in re.findall(r"^## (\S+)$", recorded.recipes_page(), re.M)
    } == every


def test_picture_of_the_concepts_says_what_it_shows():
    text = (ROOT / "docs" / "assets" / "concepts.svg").read_text(encoding="utf-8")
    assert "\n\n" not in text  # Markdown would take it apart
    picture = ElementTree.fromstring(text)
    ids = {element.get("id"): element for element in picture.iter() if element.get("id")}
    titles = (picture.get("aria-labelledby") or "").split()
    assert all((ids[name].text or "").strip() for name in titles)
    described = ids["concepts-text"].text or ""
    for word in (
        "recipe",
        "pretrain",
        "prune",
        "finetune",
        "evaluators",
        "results",
        "mask",
        "score",
    ):
        assert word in described
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(", text.replace("url(#tip)", ""))  # the page's own


def _recorded(page: Path, metric: str) -> dict[str, str]:
    """A column of a recorded table, the mean without what follows the ±."""
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    column = rows[0].index(metric)
    return {row[0]: row[column].split(" ")[0] for row in rows if len(row) == len(rows[0])}
