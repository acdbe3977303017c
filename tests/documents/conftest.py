from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustprune.families import FAMILIES, family

from .markdown import DOCUMENTS, ROOT, blocks, file_of


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with every example file; what they register is forgotten afterwards."""
    import numpy as np
    from sklearn.datasets import load_digits

    for block in [block for document in DOCUMENTS for block in blocks(document, "python")]:
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    digits = load_digits()
    pixels = (digits.images * 15).astype("uint8")
    (tmp_path / "small_digits").mkdir()
    for name, rows in (("train", slice(0, 70)), ("test", slice(70, 120))):
        file = tmp_path / "small_digits" / f"{name}.npz"
        np.savez_compressed(file, images=pixels[rows], labels=digits.target[rows])
    monkeypatch.chdir(tmp_path)
    registries = [family(name) for name in FAMILIES]
    known = [(registry.names(), dict(registry._parts))[1] for registry in registries]
    yield tmp_path
    for registry, parts in zip(registries, known, strict=True):
        registry._parts.clear()
        registry._parts.update(parts)
    for name, loaded in list(sys.modules.items()):
        if (file_of(loaded) or ROOT).parent == tmp_path:
            del sys.modules[name]
