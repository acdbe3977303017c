"""Make ready what `pack.py` packed; nothing but the standard library is needed here."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CARGO = HERE / "cargo"


def unpack(work: Path) -> Path:
    """Install the wheels that this Python lacks, and put the images into one folder.

    Args:
        work: a folder that stays between calls; packages go to ``site`` in it.

    Returns:
        The folder of the images, empty if none were packed.
    """
    site, images = work / "site", work / "images"
    images.mkdir(parents=True, exist_ok=True)
    for piece in sorted(CARGO.glob("*/*.parquet")):
        if not (images / piece.name).exists():
            shutil.copy(piece, images)
    sys.path.insert(0, str(site))
    paths = [str(HERE.parents[1]), str(site), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # of processes started here
    missing = _missing()
    if missing:
        _install(missing, work / "wheels", site)
    return images


def _missing() -> list[str]:
    lines = (HERE / "wheels.txt").read_text(encoding="utf-8").splitlines()
    names = {str(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    there = {name.lower().replace("_", "-") for name in names}
    wanted = [line for line in lines if not line.startswith("#")]
    return [name for name in wanted if name.lower() not in there]


def _install(missing: list[str], wheels: Path, site: Path) -> None:
    wheels.mkdir(parents=True, exist_ok=True)
    for wheel in CARGO.glob("*/*.whl"):
        shutil.copy(wheel, wheels)
    for first in CARGO.glob("*/*.part-00"):
        name = first.name.removesuffix(".part-00")
        parts = sorted(CARGO.glob(f"*/{name}.part-*"), key=lambda path: path.name)
        (wheels / name).write_bytes(b"".join(part.read_bytes() for part in parts))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--upgrade", "--find-links", str(wheels), "--target", str(site), *missing]
    if subprocess.run(command).returncode:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"Missing here: {', '.join(missing)}. Pack them where there is a network:\n"
            f"  python benchmarks/gpu/pack.py --python {version}"
        )
