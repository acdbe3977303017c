from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's data or cache."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", str(tmp_path / "cache"))
