"""The environment variables by which launchers tell a job's processes what they are to do."""

from __future__ import annotations

import os

import torch

from robustprune.errors import UsageError
from robustprune.recipe import ComputeOptions

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


def check_launcher(options: ComputeOptions) -> None:
    """Refuse what `accelerate launch` asks for that robustprune does not do, or does by recipe.

    Raises:
        UsageError: it names what was asked for, and what to write in its place.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
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
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count() if options.device == "auto" else 0
    if 0 < gpus < local:
        raise UsageError(
            f"{local} processes on this machine and {gpus} GPU{'s' * (gpus > 1)}: start {gpus}, "
            "or set compute.device=cpu."
        )


def job_name() -> str | None:
    """The launcher's name of this job, also when it starts it anew; None if it has no name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name  # torchrun's own default, for all jobs


def restarted() -> bool:
    """True if the launcher has started the job's processes anew, because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
