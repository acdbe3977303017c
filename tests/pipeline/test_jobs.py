"""Several processes at once: how many, what they are given, and how they are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from robustprune.pipeline.jobs import Job, here, share_of_gpus, threads_of_each, work
from robustprune.stopping import PARENT, stoppable

SAVES = "trap 'exit 130' TERM; sleep 60 & wait"


def jobs(count: int, folder: Path = Path()) -> list[Job]:
    return [Job(str(number), (), folder / f"{number}.txt") for number in range(count)]


def test_no_more_are_at_work_than_asked_for_and_all_are_done() -> None:
    working: list[tuple[str, int]] = []
    most, done = [], {}

    def start(job: Job, slot: int) -> subprocess.Popen[bytes]:
        working.append((job.name, slot))
        most.append(len(working))
        assert len({slot for _, slot in working}) == len(working), "a slot has one job"
        return subprocess.Popen(["sh", "-c", f"exit {job.name}"])

    def ended(job: Job, code: int) -> None:
        working[:] = [one for one in working if one[0] != job.name]
        done[job.name] = code

    work(iter(jobs(5)), start=start, most=2, ended=ended)
    assert done == {str(number): number for number in range(5)}
    assert max(most) == 2


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_passed_on_once_and_no_other_one_is_started(signal_: signal.Signals) -> None:
    codes = []

    def start(job: Job, slot: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", SAVES], start_new_session=True)
        if slot == 1:
            os.kill(os.getpid(), signal_)
        return process

    with pytest.raises(KeyboardInterrupt), stoppable():
        work(iter(jobs(5)), start=start, most=4, ended=lambda job, code: codes.append(code))
    assert len(codes) == 2
    assert set(codes) <= {130, -signal.SIGTERM}  # killed where the shell had set no trap yet


def test_a_fault_of_ours_leaves_no_process_behind() -> None:
    made = []

    def start(job: Job, slot: int) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(["sleep", "60"]) if slot == 0 else subprocess.Popen("true"))
        return made[-1]

    def ended(job: Job, code: int) -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        work(iter(jobs(2)), start=start, most=2, ended=ended)
    assert made[0].returncode == -signal.SIGTERM


def test_a_job_is_the_command_and_its_output_is_added_to_its_log(tmp_path: Path) -> None:
    job = Job("version", ("--version",), tmp_path / "log.txt")
    job.log.write_text("before\n")
    wrong = Job("wrong", ("run", "nowhere.yaml"), tmp_path / "wrong.txt")
    codes = {}
    start = here(2)
    work(
        iter([job, wrong]), start=start, most=2, ended=lambda j, code: codes.update({j.name: code})
    )
    assert codes == {"version": 0, "wrong": 2}
    assert job.log.read_text().startswith("before\nrobustprune ")
    assert wrong.said(2).startswith("cannot read the recipe nowhere.yaml")
    wrong.log.write_text("error: a\nrobustprune run: error: argument --jobs: b\nmore\n")
    assert wrong.said(2) == "argument --jobs: b"
    assert wrong.said(-9) == "was killed by SIGKILL"


def test_a_job_is_told_whom_it_is_to_end_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda *_, env, **__: given.append(env))
    here(1)(Job("a", (), tmp_path / "log.txt"), 0)
    assert given[0][PARENT] == str(os.getpid())


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("robustprune.pipeline.jobs.cpu_count", lambda: 12)
    assert [threads_of_each(n)["OMP_NUM_THREADS"] for n in (1, 3, 20)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(2) == {}
    gpus = ["0", "2", "5"]
    given = [share_of_gpus(slot, 1, gpus)["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert given == ["0", "2", "5", "0"]
    assert share_of_gpus(1, 2, gpus) == {"CUDA_VISIBLE_DEVICES": "5,0"}
    assert share_of_gpus(0, 1, []) == {}
