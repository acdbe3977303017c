"""From a recipe to results: objects, stages, evaluations, files."""

from __future__ import annotations

from robustprune.pipeline.results import RunResult
from robustprune.pipeline.runner import run
from robustprune.tracking import RUNS

__all__ = ["RUNS", "RunResult", "run"]
