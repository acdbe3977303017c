"""What a run computes on: accelerate's device and precision, torch's threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator


class Compute:
    """Sets a run's device, precision and threads up, and puts torch's settings back afterwards.

    Args:
        options: the recipe's.

    Attributes:
        accelerator: accelerate's.
        device: where networks and batches go.
        memory_format: how images and weights are laid out.
        shard: this process's place among those of the run.
    """

    accelerator: Accelerator
    device: torch.device

    def __init__(self, options: ComputeOptions) -> None:
        self._options = options
        self._threads = torch.get_num_threads()
        self._settings = ExitStack()
        self.shard = Shard()
        last = options.channels_last
        self.memory_format = torch.channels_last if last else torch.preserve_format

    def __enter__(self) -> Self:
        """Make the accelerator, in a state of its own: its precision is global to a process."""
        from accelerate.accelerator import Accelerator
        from accelerate.state import AcceleratorState

        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = self._options.precision
        self.accelerator = Accelerator(
            cpu=self._options.device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
        )
        if self.accelerator.num_processes > 1:
            raise UsageError(
                f"robustprune was started in {self.accelerator.num_processes} processes, which it "
                "does not support yet. Start it in one: `robustprune run …`."
            )
        self.device = self.accelerator.device
        if self.device.type == "cuda":
            self._settings.enter_context(_exact_cuda())
        return self

    def placed(self, model: nn.Module) -> nn.Module:
        """The network on the device, its weights in the memory format."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def __exit__(self, *error: object) -> None:
        """Put torch's settings back."""
        self._settings.close()
        torch.set_num_threads(self._threads)


@contextmanager
def _exact_cuda() -> Iterator[None]:
    """The same bits each time, as on a CPU, and fp32 that is fp32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.use_deterministic_algorithms(deterministic)
