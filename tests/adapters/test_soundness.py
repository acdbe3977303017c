"""Random networks of every operator: a bound is below what a search finds, or it is refused.

`benchmarks/soundness.py` does the same on more of them.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from robustprune.adapters.bounds import METHODS
from robustprune.adapters.rules import RULES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EACH = 8
"""Networks a test."""


@pytest.fixture(scope="module")
def soundness() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import soundness
    finally:
        sys.path.remove(str(BENCHMARKS))
    return soundness


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(100_000, 100_040, EACH))
def test_no_bound_is_above_what_a_search_finds(soundness, first):
    for seed in range(first, first + EACH):
        verdict = soundness.judge(seed)
        assert not verdict.wrong, (seed, verdict.piece, verdict.network)
        assert all("auto-LiRPA" in why for why in verdict.refused.values()), verdict.refused


@pytest.mark.slow
def test_the_search_finds_what_is_wrong(soundness, monkeypatch):
    """Bounds half-way to 1 are above the margins of some images."""
    margins = soundness.Bounds.margins
    monkeypatch.setattr(soundness.Bounds, "margins", lambda *a, **k: 0.5 * margins(*a, **k) + 0.5)
    wrong = [method for seed in (1, 2) for method in soundness.judge(seed, "batch_norm").wrong]
    assert {"ibp", "crown_ibp", "crown", "alpha_crown"} <= set(wrong)


def test_what_is_let_through_is_in_the_recorded_comparison():
    recorded = json.loads((BENCHMARKS / "results" / "soundness" / "soundness.json").read_text())
    assert recorded["networks"] >= 2000
    assert recorded["violations"] == []
    compared = recorded["operators"]
    for kind, rule in RULES.items():
        assert compared[kind]["ibp"], kind
        assert rule.linear is None or all(compared[kind][m] for m in METHODS), kind
