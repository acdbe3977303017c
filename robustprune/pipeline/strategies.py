"""What may be found in the environment of a job's processes, and what of it is supported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from robustprune.errors import UsageError

if TYPE_CHECKING:
    from robustprune.recipe import ComputeOptions, Recipe

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
            f"option of each section here (--set pretrain.accumulate={steps}): set it to 1 there."
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


def job() -> str | None:
    """What the launcher calls this job, also when it starts it anew; None if it has no name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name  # torchrun's own default, for all jobs


def restarted() -> bool:
    """Whether the launcher has started the job's processes anew, because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def check_shares(recipe: Recipe, world: int) -> None:
    """Make sure that each process gets its share of every stage's batches: two images at least.

    Raises:
        UsageError: it names the section, and what to change.
    """
    least = 2 * world  # BatchNorm needs two
    for name, options in recipe.stages.items():
        if world > 1 and options.batch_size < least:
            raise UsageError(
                f"{name}.batch_size: {options.batch_size} images cannot be shared among {world} "
                f"processes. Start fewer, or --set {name}.batch_size={least}."
            )


def _check_devices(options: ComputeOptions) -> None:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = torch.cuda.device_count() if options.device == "auto" else 0
    if 0 < found < local:
        raise UsageError(
            f"{local} processes on this machine and {found} GPU{'s' * (found > 1)}: start "
            f"{found}, or set compute.device=cpu."
        )
