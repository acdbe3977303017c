"""PyTorch's own files, which are pickles, read as data: nothing in them is ever executed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.artifacts.container import check_there
from robustprune.errors import UsageError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")

# What checkpoints of the field hold beside tensors: numpy's scalars, in an optimizer's state. The
# function that makes them has had two homes.
_SCALAR = np.float64(0).__reduce__()[0]
_ADMITTED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")},
]


def read_pickle(path: Path) -> Any:
    """The content of what `torch.save` wrote, in its zip format or its older one, on the CPU.

    Raises:
        UsageError: it is missing or damaged, or it asks to call anything but what makes tensors,
            plain values and numpy's scalars, which is refused before it happens.
    """
    check_there(path)
    try:
        with torch.serialization.safe_globals(_ADMITTED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of pickle, which are nobody's concern
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        said = str(error).strip()
        if asked := re.search(r"GLOBAL ([\w.]+)", said):
            raise UsageError(
                f"{path}: refused, because it asks to call '{asked[1]}', and only tensors, plain "
                "values and numpy's scalars are read. Save its state dict alone: "
                "torch.save(model.state_dict(), …)."
            ) from None
        inner = re.search(r"WeightsUnpickler error: *(.+)", said)  # behind torch's own advice
        reason = inner[1] if inner else (said.splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is not a whole file of torch.save ({reason[:200]}).") from None
