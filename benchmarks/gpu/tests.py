"""The part ``tests`` of run.py: tests/gpu, each once, until time is up."""

from __future__ import annotations

import sys

import pytest
from run import ROOT, Job, job_of, options, record, records


class Recorder:
    """Keeps what is finished, and stops between two tests when time is up."""

    def __init__(self, job: Job) -> None:
        self._job, self._path = job, job.work / "tests.jsonl"
        self.done = {entry["test"] for entry in records(self._path) if entry["outcome"] == "passed"}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what has passed before."""
        items[:] = [item for item in items if item.nodeid not in self.done]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin nothing that there is no time for."""
        if self._job.left <= 0:
            item.session.shouldstop = "the time is up"
            pytest.skip("the time is up")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a test's outcome."""
        if report.when == "call" or report.failed:
            entry = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            if report.failed:
                entry["why"] = report.longreprtext[-2000:]
            record(self._path, entry)


if __name__ == "__main__":
    job = job_of(options(__doc__).parse_args())
    words = ["-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", "-q", str(ROOT / "tests/gpu")]
    code = pytest.main(words, plugins=[Recorder(job)])
    sys.exit(0 if code in (0, pytest.ExitCode.NO_TESTS_COLLECTED) else int(code))
