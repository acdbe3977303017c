"""Programs of torch.export take any batch, and are not read."""

import json
import zipfile

import pytest
import torch

from robustprune.artifacts import backends
from robustprune.artifacts.reading import load_model
from robustprune.errors import UsageError
from tests.artifacts.nets import ARCHITECTURES, saved


def test_it_computes_the_same_for_any_batch_and_is_not_read(tmp_path):
    network, path = saved(ARCHITECTURES["normalised"]), tmp_path / "net.pt2"
    notes = backends.create("pt2").export(network, path)
    assert "load only files that you trust" in notes[0]
    module = torch.export.load(path).module()
    for batch in (1, 5, 64):
        images = torch.rand(batch, 1, 8, 8)
        torch.testing.assert_close(module(images), network.model(images))
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("robustprune.json"))
        assert json.loads(archive.read(name)) == network.metadata
    with pytest.raises(UsageError, match="can run code when it is loaded"):
        load_model(path)
