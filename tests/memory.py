"""A limit of memory, for tests of what must not take any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="memory cannot be limited on this system")

ROOM = 2**29  # bytes


@contextmanager
def little_memory() -> Iterator[None]:
    """No more memory than the process has and a little; then an allocation fails."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the process's memory is not known on this system")
    used = next(line for line in status.read_text().splitlines() if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(used.split()[1]) + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
