import os
from collections.abc import Iterator

import pytest


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
        yield
    torch.set_num_threads(before)
