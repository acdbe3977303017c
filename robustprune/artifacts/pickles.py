"""PyTorch's own files, which are pickles, read as data: nothing in them is ever executed."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.artifacts.container import check_there
from robustprune.errors import UsageError, first_line

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
    _check_whole(path)
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
        inner = re.search(r"WeightsUnpickler error: *(\S.*)", said)  # behind torch's own advice
        reason = inner[1] if inner else first_line(error)
        raise UsageError(
            f"{path} is not a whole file of torch.save, or holds more than data ({reason[:200]}). "
            "Nothing in it was executed."
        ) from None


def _check_whole(path: Path) -> None:
    """Hold a zip's records against their checksums, which torch does not; older files have none."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # of the library, about bytes of any kind
        raise UsageError(f"{path} is damaged: {first_line(error)}.") from None
    if broken is not None:
        raise UsageError(f"{path} is damaged: '{broken}' in it does not have its checksum.")
