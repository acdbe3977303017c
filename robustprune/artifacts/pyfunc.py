"""A network as MLflow's ``pyfunc`` loads it: rebuilt from our own file, nothing is unpickled.

`robustprune.tracking` names this module as the loader of the models that it logs. It imports no
MLflow itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from robustprune.artifacts.reading import load_model

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
        UsageError: see `robustprune.artifacts.reading.read_model`.
    """
    return Predictor(load_model(path))
