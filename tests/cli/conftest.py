from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from robustprune.cli import main
from robustprune.families import FAMILIES, family
from robustprune.pipeline import RunResult

from ..pipeline import tiny
from ..pipeline.conftest import light_collections, made  # noqa: F401


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Types a command: exit code, standard output, standard error."""
    handler = signal.getsignal(signal.SIGTERM)

    def typed(*words: str | Path) -> Said:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit:  # argparse
            code = int(exit.code or 0)
        return Said(code, *capsys.readouterr())

    yield typed
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run of two networks. Tests only look at it."""
    evaluate = {"evaluate": tiny.RECIPE["evaluate"]}
    return tiny.go(tmp_path_factory.mktemp("small") / "run", tiny.SMALL, evaluate)


@pytest.fixture
def own_parts(tmp_path: Path) -> Iterator[None]:
    """What a test imports from its folder and registers is forgotten after it."""
    registries = [family(name) for name in FAMILIES]
    known = [(registry, registry.names(), dict(registry._parts)) for registry in registries]
    yield
    for registry, _, parts in known:
        registry._parts.clear()
        registry._parts.update(parts)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
