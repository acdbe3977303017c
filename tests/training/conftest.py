import gc

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate's precision and device are global to a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="session", autouse=True)
def quick_collections():
    """Accelerate collects garbage after each run: spare it the libraries' own objects."""
    import robustprune.training.loop  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()
