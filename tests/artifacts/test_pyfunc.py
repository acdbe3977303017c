"""What MLflow calls to load one of our models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import robustprune as rp
from robustprune.artifacts.pyfunc import _load_pyfunc
from robustprune.artifacts.saved import save_model
from robustprune.errors import UsageError


def test_it_predicts_what_the_file_holds(tmp_path: Path) -> None:
    model = rp.create_model("cnn_digits", num_classes=10, in_chans=1)
    architecture = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1}
    save_model(tmp_path / "m.safetensors", model, masks={}, metadata={"model": architecture})
    predictor = _load_pyfunc(str(tmp_path / "m.safetensors"))
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = model.eval()(images)
    assert torch.equal(torch.from_numpy(predictor.predict(images.numpy())), expected)
    assert isinstance(predictor.get_raw_model(), nn.Module)
    assert not predictor.get_raw_model().training


def test_a_pickle_in_a_models_place_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        _load_pyfunc(str(path))


def test_code_that_cannot_be_imported_is_told_where_it_is_needed(tmp_path: Path) -> None:
    for folder in ("code", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "code" / "imports.json").write_text('["mine.py", "no_such_module_of_anybody"]')
    (tmp_path / "code" / "mine.py").write_text("1 / 0\n")
    path = tmp_path / "data" / "m.safetensors"
    model = rp.create_model("cnn_digits", num_classes=10, in_chans=1)
    architecture = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1}
    save_model(path, model, masks={}, metadata={"model": architecture})
    assert _load_pyfunc(str(path)).get_raw_model()  # which needs none of it
    save_model(path, model, masks={}, metadata={"model": {**architecture, "name": "of_mine"}})
    with pytest.raises(
        UsageError, match=r"(?s)unknown model 'of_mine'.*ZeroDivisionError.*no_such"
    ):
        _load_pyfunc(str(path))


@pytest.mark.slow
def test_loading_needs_no_mlflow() -> None:
    code = "import sys, robustprune.artifacts.pyfunc; print('mlflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
