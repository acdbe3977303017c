"""A network as MLflow's ``pyfunc`` loads it: rebuilt from our own file, nothing is unpickled.

`robustprune.tracking` names this module as the loader of the models that it logs. It imports no
MLflow itself. Code that came with the model, of networks that its recipe's imports define, is run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustprune.artifacts.reading import load_model
from robustprune.errors import UsageError
from robustprune.recipe.imports import run_imports
from robustprune.tracking.layout import CODE_FOLDER, CODE_IMPORTS


class Predictor:
    """A network, plain and in eval mode, that takes and gives numpy arrays."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, ``(n, classes)``, of one batch ``(n, channels, height, width)`` in [0, 1]."""
        with torch.no_grad():
            logits: NDArray[np.float32] = self._model(torch.as_tensor(images)).numpy()
        return logits

    def get_raw_model(self) -> nn.Module:
        """The network itself; pyfunc's method of the same name gives it."""
        return self._model


def _load_pyfunc(path: str) -> Predictor:
    """The predictor that pyfunc asks for, by this name, with the path of the model file."""
    code = Path(path).parent.parent / CODE_FOLDER
    entries, problems = code / CODE_IMPORTS, []
    if entries.is_file():
        problems = run_imports(json.loads(entries.read_text("utf-8")), code)
    try:
        return Predictor(load_model(path))
    except UsageError as error:
        messages = [str(error), *(problem.message for problem in problems)]
        raise UsageError("\n".join(messages)) from None
