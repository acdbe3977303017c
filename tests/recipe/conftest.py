from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustprune import objectives

GOOD = """\
name: toy
data: {name: digits, validation: 0.1}
model: {name: cnn_digits}
objective: {name: pgd, eps: 0.1, steps: 5}
pretrain: {epochs: 1}
prune: {methods: [hydra], densities: [0.1], epochs: 1}
finetune: {epochs: 1}
evaluate: [{name: clean}]
"""
"""A right recipe, one section a line: name 1, data 2, model 3, objective 4, pretrain 5, …"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write GOOD, with sections replaced (or left out, by None), as ``r.yaml`` here."""
    monkeypatch.chdir(tmp_path)

    def recipe(**sections: str | None) -> Path:
        lines = {line.partition(":")[0]: line for line in GOOD.splitlines()}
        for key, text in sections.items():
            lines[key] = "" if text is None else f"{key}: {text}"
        Path("r.yaml").write_text("\n".join(lines.values()) + "\n", encoding="utf-8")
        return Path("r.yaml")

    return recipe


@pytest.fixture
def own_parts() -> Iterator[None]:
    """What a test imports and registers is forgotten after it."""
    objectives.names()
    parts, modules = dict(objectives.registry._parts), set(sys.modules)
    yield
    objectives.registry._parts.clear()
    objectives.registry._parts.update(parts)
    for name in set(sys.modules) - modules:
        del sys.modules[name]
