from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels and measured seconds of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
