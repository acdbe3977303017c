from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from robustprune.report import write_report

from ..pipeline.conftest import light_collections  # noqa: F401
from . import made


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all its files. Tests only look at it."""
    return made.folder(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run's page, really drawn. Tests only look at it."""
    return write_report([run], tmp_path_factory.mktemp("page") / "deep" / "report.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The figures in their order, filled but not drawn, because drawing takes long."""
    canvases: list[Canvas] = []

    def save(canvas: Canvas, file: Any, **options: Any) -> None:
        file.write(b"drawn")
        if canvas not in canvases:
            canvases.append(canvas)

    monkeypatch.setattr(Canvas, "draw_without_rendering", lambda canvas: None)
    monkeypatch.setattr(Canvas, "savefig", save)
    return canvases
