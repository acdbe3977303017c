"""Tracking: what is seen of a run while it goes, in MLflow and on the console.

Importing this package is quick: MLflow is imported by the thread that talks to the store.
"""

from __future__ import annotations

from robustprune.tracking.console import Bar, Console, Silent
from robustprune.tracking.datasets import described as describe_datasets
from robustprune.tracking.download import download_run
from robustprune.tracking.importer import import_run
from robustprune.tracking.layout import (
    NETWORK_FILES,
    RUN_FILES,
    describe_network,
    describe_run,
    ended,
    final_metrics,
    run_name,
    stage_metrics,
    uploads,
)
from robustprune.tracking.options import (
    RUNS,
    TrackingOptions,
    check_store,
    describe_store,
    local_store,
    store_uri,
)
from robustprune.tracking.tracker import NullTracker, Tracker, open_tracker
from robustprune.tracking.ui import serve_ui

__all__ = [
    "NETWORK_FILES",
    "RUNS",
    "RUN_FILES",
    "Bar",
    "Console",
    "NullTracker",
    "Silent",
    "Tracker",
    "TrackingOptions",
    "check_store",
    "describe_datasets",
    "describe_network",
    "describe_run",
    "describe_store",
    "download_run",
    "ended",
    "final_metrics",
    "import_run",
    "local_store",
    "open_tracker",
    "run_name",
    "serve_ui",
    "stage_metrics",
    "store_uri",
    "uploads",
]
