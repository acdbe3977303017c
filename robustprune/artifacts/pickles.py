"""PyTorch's own files, which are pickles, read as data: nothing in them is ever executed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustprune.artifacts.container import check_there
from robustprune.artifacts.scanning import check_legacy, check_zip
from robustprune.errors import UsageError, first_line

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")

_KINDS = {kind: np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "b1")}


def _kind(code: str, *_: Any) -> np.dtype[Any]:
    """The type of plain numbers that a code names; numpy's own function makes any, of any size."""
    return _KINDS[code]


# What checkpoints of the field hold beside tensors: numpy's scalars, in an optimizer's state. The
# function that makes them has had two homes.
_SCALAR = np.float64(0).__reduce__()[0]
_ADMITTED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_kind, "numpy.dtype"),
    *{type(kind) for kind in _KINDS.values()},
]


def read_pickle(path: Path) -> Any:
    """The content of what `torch.save` wrote, in its zip format or its older one, on the CPU.

    Tensors of a zip stay in the file until they are used, which must not change before.

    Raises:
        UsageError: it is missing or damaged, takes more memory than its own size, or asks to call
            anything but what makes tensors, plain values and numpy's scalars, which is refused
            before it happens.
    """
    check_there(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
        (check_zip if zipped else check_legacy)(path)
        with torch.serialization.safe_globals(_ADMITTED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of pickle, which are nobody's concern
            # mapped, a zip's tensors are no longer than the file, whatever is said of them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UsageError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        inner = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))  # behind torch's advice
        reason = inner[1] if inner else first_line(error)
        raise UsageError(
            f"{path} is not a whole file of torch.save, or holds more than data ({reason[:200]}). "
            "Nothing in it was executed."
        ) from None
