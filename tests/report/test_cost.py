"""Accuracy against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from robustprune.report import cost
from robustprune.report.cost import front, strongest

from . import made


def test_the_front_is_what_nobody_beats() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in draw.integers(1, 9, (12, 2))]
        unbeaten = {
            (x, y)
            for x, y in points
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        }
        assert front(points) == sorted(unbeaten)


def test_networks_stand_at_what_they_cost(tmp_path: Path, undrawn: list[Canvas]) -> None:
    group = made.group(made.folder(tmp_path / "run", files=False))
    section = cost.section([group])
    names = [f"cost-tiny-pgd-{name}" for name in ("size-bytes-packed", "flops-macs-sparse")]
    assert [figure.name for figure in section.figures] == names
    axes = undrawn[0].axes[0]
    drawn = {c.get_label(): c.lines[0] for c in axes.containers}
    assert drawn["hydra"].get_xdata().tolist() == [4 * 2947, 4 * 295]
    assert drawn["hydra"].get_ydata().tolist() == [62.5, 50.0]
    assert axes.get_xscale() == "log"
    (line,) = [line for line in axes.lines if line.get_label() == "front"]
    assert line.get_ydata().tolist() == [50.0, 62.5, 75.0, 75.0]
    assert "on the front: 50.0 % at 1,180; 62.5 % at 11,788; 75.0 %" in section.figures[0].alt


def _two_attacks(document: dict[str, Any]) -> None:
    document["params"]["evaluate"][2]["eps"] = 0.1  # now the stronger of two in one ball


def _unmeasured(document: dict[str, Any]) -> None:
    for network in document["networks"]:
        network["measures"] = {}


def _unattacked(document: dict[str, Any]) -> None:
    document["params"]["evaluate"] = document["params"]["evaluate"][:1]


def test_the_strongest_attack_of_one_ball_is_shown(tmp_path: Path) -> None:
    wide = made.group(made.folder(tmp_path / "a", files=False))
    assert (strongest(wide) or ("",))[0] == "pgd"  # pgd_0.2 finds more, in a larger ball
    same = made.group(made.folder(tmp_path / "b", files=False, change=_two_attacks))
    assert (strongest(same) or ("",))[0] == "pgd_0.2"


@pytest.mark.parametrize(
    ("change", "words"), [(_unmeasured, "'measures:' hold no cost"), (_unattacked, "no attack")]
)
def test_what_was_not_measured_is_said(change: made.Change, words: str, tmp_path: Path) -> None:
    section = cost.section([made.group(made.folder(tmp_path / "run", files=False, change=change))])
    assert section.figures == []
    assert words in section.missing[0]
