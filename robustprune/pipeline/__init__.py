"""From a recipe to results: objects, phases, evaluations, files."""

from __future__ import annotations

# At once, not when first asked for: a later import of the module would shadow the function.
from robustprune.pipeline.results import RunResult
from robustprune.pipeline.run import run

__all__ = ["RunResult", "run"]
