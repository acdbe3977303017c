"""The device, precision and processes of a run (accelerate's), and torch's threads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from typing import Self

import psutil
import torch
from accelerate.accelerator import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.dataclasses import DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils.operations import broadcast_object_list, gather_object
from joblib import cpu_count  # type: ignore[import-untyped]
from torch import nn

from robustprune import kernels
from robustprune.errors import UsageError
from robustprune.pipeline.launcher_env import check_launcher
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard

_PATIENCE = timedelta(days=7)
"""For how long a process waits for the others: one may evaluate, or upload, for hours. That one
has died is seen by the launcher, and by the connection to it."""
_SECONDS = 0.25  # for which the machine is watched
_SPARE = 0.25  # of a CPU: what others may take of it before it counts as taken


class Compute(ExitStack):
    """Sets a run's device, precision and threads up, and puts torch's settings back afterwards.

    Args:
        options: the recipe's.

    Attributes:
        accelerator: accelerate's.
        shard: this process among those that the run was started in.
        device: where networks and batches go.
        memory_format: how images and weights are laid out.
    """

    def __init__(self, options: ComputeOptions) -> None:
        super().__init__()
        self._options = options
        last = options.channels_last
        self.memory_format = torch.channels_last if last else torch.preserve_format

    def __enter__(self) -> Self:
        """Make the accelerator, in a state of its own: its precision is global to a process.

        Raises:
            UsageError: it was started in a way that is not supported, or on too few GPUs, or where
                sparse kernels cannot be had.
        """
        check_launcher(self._options)
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
        check_device(self._options, self.accelerator.device)
        self.shard = _shard(self.accelerator)
        self.callback(torch.set_num_threads, torch.get_num_threads())
        # all of one job alike: what is left on the machine that has least
        torch.set_num_threads(self._options.threads or min(self.shard.gather(default_threads())))
        self.device = self.accelerator.device
        if self.device.type == "cuda":
            self.enter_context(_exact_cuda())
        return self

    def keep_threads(self, threads: int | None) -> None:
        """Take the threads that a run began with, where the recipe names none: bits depend on them.

        None: it has not begun.
        """
        if self._options.threads is None and threads is not None:
            torch.set_num_threads(threads)

    def placed(self, model: nn.Module) -> nn.Module:
        """The network on the device, its weights in the memory format."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]


def check_device(options: ComputeOptions, device: torch.device | None = None) -> None:
    """Make sure that ``sparse: on`` can be done here; ``device`` is the one in use if known.

    Raises:
        UsageError: the device is no CPU, or there are no kernels.
    """
    if options.sparse != "on":
        return
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = options.device == "cpu" or not there if device is None else device.type == "cpu"
    if not on_cpu:
        which = "a GPU" if device is None else str(device)
        raise UsageError(
            f"sparse: on is for CPUs, and the device is {which}. Use device: cpu, or sparse: auto."
        )
    if (reason := kernels.available()) is not None:
        raise UsageError(f"sparse: on needs kernels: {reason}. Or use sparse: auto.")


def default_threads(*, processes: int = 0) -> int:
    """The threads of each process of a job on this machine, where the recipe does not say.

    As many as there are idle CPUs for it, of ``processes`` that share the machine (0: as the
    launcher says): threads that wait for one another are slower than one where they outnumber
    those. The user's own word wins: one of the variables that torch obeys, or
    ``torch.set_num_threads`` with fewer.
    """
    most = torch.get_num_threads()
    if most == 1 or os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return most
    processes = processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(most, math.floor(_idle() / processes + _SPARE)))


@cache
def _idle() -> float:
    """CPUs that this process may use and nobody else does; once a process, for all its runs."""
    own = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    used = psutil.cpu_percent(_SECONDS, percpu=True)
    usable = [used[cpu] for cpu in own or () if cpu < len(used)] or used
    # joblib knows the quotas of control groups, which containers have
    idle = sum(1 - float(percent) / 100 for percent in usable)
    return min(idle, float(cpu_count()))


def _shard(accelerator: Accelerator) -> Shard:
    if accelerator.num_processes == 1:
        return Shard()
    return Shard(
        accelerator.process_index,
        accelerator.num_processes,
        gather=lambda value: list(gather_object([value])),
        broadcast=lambda value: broadcast_object_list([value])[0],
    )


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
