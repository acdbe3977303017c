from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from robustprune.report import write_report
from robustprune.report.figures import Figure

from ..pipeline.conftest import light_collections  # noqa: F401
from . import made

Painted = Callable[[ModuleType], dict[str, Axes]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all its files. Tests only look at it."""
    return made.folder(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run's page, really drawn. Tests only look at it."""
    return write_report([run], tmp_path_factory.mktemp("page") / "deep" / "report.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not drawn, for tests of what stands around them: drawing takes long."""
    monkeypatch.setattr(Canvas, "draw_without_rendering", lambda canvas: None)
    monkeypatch.setattr(Canvas, "savefig", lambda canvas, file, **options: file.write(b"drawn"))


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Painted:
    """Has a section's module paint into axes that can be looked at, by the figure's name."""

    def watch(module: ModuleType) -> dict[str, Axes]:
        found: dict[str, Axes] = {}

        def draw(name: str, title: str, alt: str, paint: Any, **options: Any) -> Figure:
            found[name] = Canvas().subplots()
            paint(found[name])
            return Figure(name, title, alt, b"", b"")

        monkeypatch.setattr(module, "draw", draw)
        return found

    return watch
