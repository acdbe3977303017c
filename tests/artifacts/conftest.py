import pytest

from robustprune.artifacts.dense import save_model
from tests.artifacts.nets import document, pruned


@pytest.fixture
def path(tmp_path):
    model, masks = pruned()
    save_model(tmp_path / "model.safetensors", model, masks=masks, metadata=document())
    return tmp_path / "model.safetensors"
