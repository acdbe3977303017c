"""From a recipe to results: objects, phases, evaluations, files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune.pipeline.results import RunResult
    from robustprune.pipeline.run import run

__all__ = ["RunResult", "run"]

_MODULES = {"RunResult": "results", "run": "run"}


def __getattr__(name: str) -> Any:
    """Import torch only when something is run."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
