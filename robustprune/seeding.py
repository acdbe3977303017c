"""Every draw of randomness belongs to a name: (network, stage, epoch), (network, evaluator, batch).

Nothing draws from the global generators across such a boundary, because others reseed them
(torchattacks' AutoAttack does): a run with evaluators and one without write the same weights.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and ``names`` and on nothing else."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def fork(seed: int, *names: str | int) -> Iterator[int]:
    """Run a block on fresh global generators (python, numpy, torch on the CPU and the GPU in use).

    Yields the derived seed; the generators' former states are back when the block ends.
    """
    derived = derive(seed, *names)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    in_use = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=in_use):
        random.seed(derived)
        np.random.seed(derived % 2**32)
        torch.manual_seed(derived)
        try:
            yield derived
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def capture() -> dict[str, Any]:
    """The state of the global generators, as tensors and plain values."""
    _, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (torch.tensor(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put the global generators in a state that `capture` gave, within a `fork`."""
    keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
