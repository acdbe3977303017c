import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustprune.pipeline import RunResult

from . import tiny
from .copies import made  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def light_collections() -> Iterator[None]:
    """Take the libraries out of the garbage collector's sight.

    accelerate collects garbage after each stage, which takes 0.2 s with all of torch to look at.
    """
    import sklearn.datasets  # noqa: F401
    import timm  # noqa: F401
    import torchattacks  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The tiny recipe's run. Tests only look at it."""
    return tiny.go(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def folder(finished: RunResult) -> Path:
    return finished.folder
