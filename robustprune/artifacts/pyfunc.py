"""A network as MLflow's ``pyfunc`` loads it: rebuilt from our own file, nothing is unpickled.

`robustprune.tracking` names this module as the loader of the models that it logs. It imports no
MLflow itself. Code that came with the model, of networks that its recipe's imports define, is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from robustprune.artifacts.reading import load_model
from robustprune.errors import Problem, UsageError
from robustprune.recipe.imports import run_imports
from robustprune.tracking.code import ENTRIES, FOLDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Predictor:
    """A network that takes and gives numpy arrays.

    Args:
        model: plain, in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, ``(n, classes)``.

        Args:
            images: ``(n, channels, height, width)``, float32 in [0, 1]; one batch.
        """
        with torch.no_grad():
            logits: torch.Tensor = self._model(torch.as_tensor(images))
        found: NDArray[np.float32] = logits.numpy()
        return found

    def get_raw_model(self) -> nn.Module:
        """The network itself; pyfunc's method of the same name gives it."""
        return self._model


def _load_pyfunc(path: str) -> Predictor:
    """What pyfunc calls, by this name, with the path of the model file.

    Raises:
        UsageError: see `robustprune.artifacts.reading.read_model`; or the code that came with the
            model, and is needed, cannot be imported.
    """
    problems = _import_code(Path(path).parent.parent / FOLDER)
    try:
        return Predictor(load_model(path))
    except UsageError as error:
        if not problems:
            raise
        raise UsageError(
            "\n".join([str(error), *(problem.message for problem in problems)])
        ) from None


def _import_code(folder: Path) -> list[Problem]:
    """Import the code beside a model, if there is any; a problem for each part that cannot be."""
    entries = folder / ENTRIES
    if not entries.is_file():
        return []
    return run_imports(json.loads(entries.read_text(encoding="utf-8")), folder)
