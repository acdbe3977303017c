from __future__ import annotations

import subprocess
import sys

from robustprune.types import Images, Interval, Progress


def test_progress_starts_at_nothing_done() -> None:
    assert Progress() == (0, 0, 0.0, 1, "pretrain")
    assert Progress(3, 1200, 0.4, 8, "prune") == Progress(
        epoch=3, step=1200, fraction=0.4, epochs=8, stage="prune"
    )


def test_pairs_keep_their_order() -> None:
    assert Interval(low=0.1, high=0.2) == (0.1, 0.2)
    assert Images._fields == ("images", "labels")


def test_floor_0_imports_no_heavy_library() -> None:
    modules = "arithmetic errors families files messages paths radii stopping"
    code = (
        f"import sys\nfor name in '{modules}'.split(): __import__('robustprune.' + name)\n"
        "print(sorted({'torch', 'numpy', 'timm', 'mlflow', 'yaml'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
