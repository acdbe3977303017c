"""Tracking: what is seen of a run while it goes, in MLflow and on the console.

Importing this package is quick: MLflow is imported by the thread that talks to the store.
"""

from __future__ import annotations

from robustprune.tracking.console import Bar, Console
from robustprune.tracking.importer import import_run
from robustprune.tracking.layout import (
    describe_network,
    describe_run,
    final_metrics,
    phase_metrics,
)
from robustprune.tracking.options import (
    TrackingOptions,
    check_store,
    describe_store,
    store_uri,
)
from robustprune.tracking.tracker import NullTracker, Tracker, open_tracker

__all__ = [
    "Bar",
    "Console",
    "NullTracker",
    "Tracker",
    "TrackingOptions",
    "check_store",
    "describe_network",
    "describe_run",
    "describe_store",
    "final_metrics",
    "import_run",
    "open_tracker",
    "phase_metrics",
    "store_uri",
]
