from __future__ import annotations

import pytest
import torch

from robustprune.errors import UsageError
from robustprune.pipeline.launcher_env import check_launcher, restarted
from robustprune.recipe import ComputeOptions


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP is not supported .* DDP: torchrun"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "Megatron-LM is not supported"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism is not supported"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", r"--set pretrain\.accumulate=4"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch.compile, which is not supported"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", r"for fp32\. .*--set compute\.precision=bf16"),
    ],
)
def test_what_another_launcher_asks_for_is_refused_or_said_in_the_recipe(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_launcher(ComputeOptions())
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        check_launcher(ComputeOptions())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_USE_FSDP", "false"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
        ("ACCELERATE_DYNAMO_BACKEND", "NO"),
        ("ACCELERATE_MIXED_PRECISION", "no"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
    ],
)
def test_what_agrees_with_the_recipe_is_taken(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    check_launcher(ComputeOptions(precision="bf16"))


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes on this machine and 1 GPU: start 1"):
        check_launcher(ComputeOptions())
    check_launcher(ComputeOptions(device="cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_launcher(ComputeOptions())


def test_a_launcher_says_when_it_has_started_processes_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted()
