import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "robustprune"


@pytest.fixture(scope="session", autouse=True)
def heard_interrupts() -> None:
    """Ctrl-C interrupts, also where the tests run in the background of a script."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quiet_environment() -> Iterator[None]:
    """One torch thread, for tiny tensors, and none of the user's own settings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("ROBUSTPRUNE_", "MLFLOW_")):
                patch.delenv(name)
        patch.setenv("ROBUSTPRUNE_CACHE", str(CACHE))  # of compiled kernels, for the next time, too
        yield
    torch.set_num_threads(before)
