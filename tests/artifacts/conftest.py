import pytest

from tests.artifacts.nets import saved, saved_to


@pytest.fixture
def path(tmp_path):
    return saved_to(tmp_path / "model.safetensors", saved())
