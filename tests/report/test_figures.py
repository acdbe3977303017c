from __future__ import annotations

from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from PIL import Image

from robustprune.report.figures import density_axis, draw, slug, spread, write_figures
from robustprune.report.groups import styles


def line(axes: Axes) -> None:
    axes.plot([0.01, 0.1, 1], [1, 2, 3], label="a $b_{c}$ line")
    density_axis(axes, [0.01, 0.1, 1])


@pytest.mark.slow
def test_a_figure_is_the_same_each_time() -> None:
    first, second = (draw("Name 0.1", "title", "alt", line) for _ in range(2))
    assert first == second
    assert first.name == "name-0-1"
    assert first.svg.startswith(b"<?xml")
    assert first.save("pdf") == second.save("pdf")
    assert Image.open(BytesIO(first.save("png"))).size[0] == 792


def test_text_in_figures_stays_text_and_lines_their_place() -> None:
    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], label="at 0.123456 <&>")

    drawn = draw("a", "the title is not in it", "", paint)
    root = ElementTree.fromstring(drawn.svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "at 0.123456 <&>" in texts
    assert not any("title" in str(text) for text in texts)
    pdf = drawn.save("pdf")
    assert b"/CIDFontType2" in pdf  # font type 42, which journals take
    assert b"/Type3" not in pdf


def test_figures_are_written_for_browsers_and_for_papers(tmp_path: Path) -> None:
    write_figures([draw("a", "", "", line), draw("A!", "", "", line)], tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["a-2.pdf", "a-2.svg", "a.pdf", "a.svg"]
    assert (tmp_path / "new" / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_label_is_no_formula() -> None:
    def broken(axes: Axes) -> None:
        axes.plot([1, 2], label=r"$\frac{$")
        axes.set_xlabel("$_^$")

    assert draw("a", r"$\frac{$", "", broken).svg


def test_ticks_are_left_out_where_they_would_overlap() -> None:
    assert spread([0.01, 0.1, 1]) == [0.01, 0.1, 1]
    tenths = [n / 10 for n in range(1, 11)]
    kept = spread(tenths, most=6)
    assert (kept[0], kept[-1]) == (0.1, 1.0)
    assert all(b / a >= 10 ** (1 / 6) for a, b in pairwise(kept))
    assert 3 < len(kept) < len(tenths)


@pytest.mark.parametrize("text", ["../../etc/passwd", "/", "", "a/b", "ε"])
def test_a_figure_never_names_a_path(text: str) -> None:
    assert slug(text)
    assert not set(slug(text)) & set("/.\\")


def test_pruners_have_fixed_looks_in_a_fixed_order() -> None:
    assert list(styles(["zeta", "random", "magnitude", "alpha", "hydra", "dense"])) == [
        "dense", "hydra", "magnitude", "random", "alpha", "zeta",
    ]  # fmt: skip
    alone, together = styles(["hydra"]), styles(["random", "hydra", "zeta"])
    assert alone["hydra"] == together["hydra"]


def test_looks_differ_in_colour_and_marker_and_stand_out_from_the_page() -> None:
    found = styles(["dense", "hydra", "magnitude", "random", "a", "b", "c", "d", "e"]).values()
    for one, other in combinations(found, 2):
        assert one.colour != other.colour
        assert one.marker != other.marker
    many = styles(f"method-{number}" for number in range(29))
    assert len(set(many.values())) == 29
    for look in list(found)[:4]:
        assert 1.05 / (luminance(look.colour) + 0.05) >= 3  # WCAG 2.1, 1.4.11, against white


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_was_measured_comes_first_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[list[str]] = []
    legend = Canvas.legend

    def keep(canvas: Canvas, handles: object, labels: list[str], **options: object) -> object:
        named.append(list(labels))
        return legend(canvas, handles, labels, **options)

    def paint(axes: Axes) -> None:
        axes.plot([1], [1], label="hydra, paper")
        axes.errorbar([1], [1], yerr=[[1], [1]], label="hydra")

    monkeypatch.setattr(Canvas, "legend", keep)
    draw("a", "a", "", paint)
    assert named == [["hydra", "hydra, paper"]]


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (["dense", "hydra", "magnitude", "front"], 4),
        (["dense", "robust_scratch_ticket", "magnitude", "flyingbird_plus"], 2),
    ],
)
def test_a_legend_is_one_row_where_that_fits(
    labels: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []
    legend = Canvas.legend

    def keep(canvas: Canvas, *lists: object, **options: Any) -> object:
        found.append(options["ncols"])
        return legend(canvas, *lists, **options)

    def paint(axes: Axes) -> None:
        for label in labels:
            axes.plot([1], [1], label=label)

    monkeypatch.setattr(Canvas, "legend", keep)
    draw("a", "a", "", paint)
    assert found == [columns]
