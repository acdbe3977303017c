"""The runtime as it is shipped: a wheel, unpacked into a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from robustprune.kernels.file import write
from robustprune.kernels.jit import available

from ..kernels.networks import SHAPE, residual

ROOT = Path(__file__).parents[2]
CLASSES = ["ape", "bat", "cat", "dog"]

Python = Callable[..., CompletedProcess[str]]


def built(sources: Path, out: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(out), *words, str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """What the distribution is built from; building leaves files there."""
    folder = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info")
    for name in ("runtime", "robustprune/kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder / "runtime"


@pytest.fixture(scope="session")
def wheel(sources, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    built(sources, out)
    (path,) = out.glob("robustprune_runtime-*.whl")
    return path


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory) -> Python:
    """Runs Python with nothing of ours but the wheel's content."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"ROBUSTPRUNE_CACHE": str(cache)}
    # -I: neither PYTHONPATH nor the working directory; -S: no .pth that points at robustprune
    paths = [str(folder), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    start = f"import sys; sys.path[:0] = {paths!r}\n"

    def run(code: str, *words: str) -> CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", start + code, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """A small network of all kinds of operations."""
    if reason := available():
        pytest.skip(reason)
    path = tmp_path_factory.mktemp("file") / "net.sparse"
    write(path, residual(), SHAPE, {"classes": CLASSES, "density": 0.1})
    return path
