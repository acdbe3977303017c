from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.errors import UsageError
from robustprune.pipeline.folder import RunFolder, of_job
from robustprune.pipeline.strategies import check_shares, check_strategy, restarted
from robustprune.recipe import ComputeOptions

from . import tiny


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
    check_strategy(ComputeOptions())
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        check_strategy(ComputeOptions())


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
    check_strategy(ComputeOptions(precision="bf16"))


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes on this machine and 1 GPU: start 1"):
        check_strategy(ComputeOptions())
    check_strategy(ComputeOptions(device="cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_strategy(ComputeOptions())


def test_a_launcher_says_when_it_has_started_processes_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted()


def test_each_process_gets_some_of_every_batch() -> None:
    recipe = tiny.recipe({"finetune": {"batch_size": 3}})
    check_shares(recipe, 1)
    with pytest.raises(
        UsageError,
        match=r"finetune\.batch_size: 3 images .* among 2 processes.*--set finetune\.batch_size=4",
    ):
        check_shares(recipe, 2)
    check_shares(tiny.recipe({"finetune": {"batch_size": 4}}), 2)


def test_a_job_goes_on_in_its_own_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe(tiny.SMALL, {"prune": None, "finetune": None})
    here: dict[str, Any] = {"runs": tmp_path, "cut": {}}
    RunFolder.begin(recipe, **here, out=tmp_path / "tiny" / "other").close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert of_job(recipe, runs=tmp_path, out=None) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert of_job(recipe, runs=tmp_path, out=None) is None
    RunFolder.begin(recipe, **here, out=tmp_path / "tiny" / "an own").close()
    assert of_job(recipe, runs=tmp_path, out=None) == tmp_path / "tiny" / "an own"
    assert of_job(recipe, runs=tmp_path, out=tmp_path / "tiny" / "other") is None
    folder = RunFolder.reopen(recipe, **here, out=tmp_path / "tiny" / "other")
    assert folder is not None
    folder.close()
    assert of_job(recipe, runs=tmp_path, out=tmp_path / "tiny" / "other") is not None
