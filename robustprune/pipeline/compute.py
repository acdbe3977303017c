"""What a run computes on: accelerate's device, precision and processes, torch's threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from robustprune.pipeline.strategies import check_strategy
from robustprune.pipeline.threads import default_threads
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator


_PATIENCE = timedelta(days=7)
"""For how long a process waits for the others: one may evaluate, or upload, for hours. That one
has died is seen by the launcher, and by the connection to it."""


class Compute:
    """Sets a run's device, precision and threads up, and puts torch's settings back afterwards.

    Args:
        options: the recipe's.

    Attributes:
        accelerator: accelerate's.
        shard: this process among those that the run was started in.
        device: where networks and batches go.
        memory_format: how images and weights are laid out.
    """

    accelerator: Accelerator
    shard: Shard
    device: torch.device

    def __init__(self, options: ComputeOptions) -> None:
        self._options = options
        self._threads = torch.get_num_threads()
        self._settings = ExitStack()
        last = options.channels_last
        self.memory_format = torch.channels_last if last else torch.preserve_format

    def __enter__(self) -> Self:
        """Make the accelerator, in a state of its own: its precision is global to a process.

        Raises:
            UsageError: it was started in a way that is not supported, or on too few GPUs.
        """
        from accelerate.accelerator import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils.dataclasses import (
            DistributedDataParallelKwargs,
            InitProcessGroupKwargs,
        )

        check_strategy(self._options)
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = self._options.precision
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        self.accelerator = Accelerator(
            # told nothing, accelerate leaves processes without a GPU alone, each with its own job
            cpu=self._options.device == "cpu" or not (alone or torch.cuda.is_available()),
            mixed_precision="no" if precision == "fp32" else precision,
            dynamo_backend="no",
            kwargs_handlers=[
                # masks follow from the scores, and BatchNorm's statistics are seen to by the loop;
                # a network may have parameters that an objective does not use
                DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
        self.shard = _shard(self.accelerator)
        # all of one job alike: what is left on the machine that has least
        torch.set_num_threads(self._options.threads or min(self.shard.gather(default_threads())))
        self.device = self.accelerator.device
        if self.device.type == "cuda":
            self._settings.enter_context(_exact_cuda())
        return self

    def go_on_with(self, threads: int | None) -> None:
        """Take the threads that a run began with, where the recipe does not say: bits depend on it.

        Args:
            threads: the number in its results; None if there is none yet.
        """
        if self._options.threads is None and threads is not None:
            torch.set_num_threads(threads)

    def placed(self, model: nn.Module) -> nn.Module:
        """The network on the device, its weights in the memory format."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def __exit__(self, *error: object) -> None:
        """Put torch's settings back."""
        self._settings.close()
        torch.set_num_threads(self._threads)


def _shard(accelerator: Accelerator) -> Shard:
    from accelerate.utils.operations import broadcast_object_list, gather_object

    if accelerator.num_processes == 1:
        return Shard()

    def gather(value: Any) -> list[Any]:
        return list(gather_object([value]))

    def broadcast(value: Any) -> Any:
        return broadcast_object_list([value])[0]

    return Shard(accelerator.process_index, accelerator.num_processes, gather, broadcast)


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
