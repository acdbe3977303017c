"""From a recipe to results: objects, phases, evaluations, files."""

from __future__ import annotations

from robustprune.pipeline.results import RunResult
from robustprune.pipeline.runner import run

__all__ = ["RunResult", "run"]
