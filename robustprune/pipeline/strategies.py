"""What may be found in the environment of a job's processes, and what of it is supported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from robustprune.errors import UsageError

if TYPE_CHECKING:
    from robustprune.recipe import ComputeOptions

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}
_TRUE = ("true", "1", "yes")


def check_strategy(options: ComputeOptions) -> None:
    """Refuse what `accelerate launch` asks for that robustprune does not do, or does by recipe.

    Raises:
        UsageError: it names what was asked for, and what to write in its place.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").lower() in _TRUE:
            raise UsageError(
                f"{name} is not supported ({variable} is set): each process needs the whole "
                "network. Start the same command with DDP: torchrun, or accelerate launch "
                "--multi_gpu with a configuration that does not name it."
            )
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise UsageError(
            f"accelerate's configuration asks for {steps} gradient accumulation steps. That is an "
            f"option of each phase here, e.g. --set pretrain.accumulate={steps}: set it to 1 there."
        )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", options.precision):
        raise UsageError(
            f"accelerate's configuration asks for {asked}, and the recipe for "
            f"{options.precision}. Say it in the recipe: --set compute.precision={asked}."
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UsageError(
            "accelerate's configuration asks for torch.compile, which is not supported: set "
            "dynamo_backend to 'no' there."
        )
    _check_devices(options)


def restarted() -> bool:
    """Whether the launcher has started the job's processes anew, because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _check_devices(options: ComputeOptions) -> None:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = torch.cuda.device_count() if options.device == "auto" else 0
    if 0 < found < local:
        raise UsageError(
            f"{local} processes on this machine and {found} GPU{'s' * (found > 1)}: start "
            f"{found}, or set compute.device=cpu."
        )
