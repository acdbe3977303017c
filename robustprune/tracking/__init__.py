"""Tracking: a run as it is seen while it goes, in MLflow and on the console.

Importing this package does not import MLflow, which takes a second and need not be installed where
``tracking.enabled`` is false. The thread that talks to the store does, and so do `import_run` and
`download_run`.
"""

from __future__ import annotations

import importlib
from typing import Any

from robustprune.tracking.console import Console, Silent
from robustprune.tracking.layout import ended, final_metrics, stage_metrics
from robustprune.tracking.options import (
    RUNS,
    TrackingOptions,
    check_store,
    describe_store,
    prepare_mlflow,
    store_uri,
)
from robustprune.tracking.tracker import Tracker
from robustprune.tracking.ui import serve_ui

__all__ = [
    "RUNS",
    "Console",
    "Silent",
    "Tracker",
    "TrackingOptions",
    "check_store",
    "describe_store",
    "ended",
    "final_metrics",
    "serve_ui",
    "stage_metrics",
    "store_uri",
]


def __getattr__(name: str) -> Any:
    """Import `import_run` and `download_run` when they are asked for, and MLflow with them."""
    if name not in ("import_run", "download_run"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    prepare_mlflow()
    return getattr(importlib.import_module("robustprune.tracking.transfer"), name)
