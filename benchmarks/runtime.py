"""How soon the runtime is ready, the memory that it takes, and the milliseconds of an image.

    python benchmarks/runtime.py

VGG16 (CIFAR-10), masked at random at density 0.01, is exported as a sparse file. The runtime's
wheel is built and unpacked, and fresh processes that see it, numpy, zstandard and llvmlite alone
load the file: first with an empty cache of compiled kernels, then with a full one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from exports import _network
from ratio import table, write

from robustprune.artifacts.backends import create

ROOT = Path(__file__).parents[1]
CHILD = """
import json, resource, sys, time
sys.path[:0] = json.loads(sys.argv[1])
def mib():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")]
start = time.perf_counter()
import robustprune_runtime
imported = time.perf_counter()
model = robustprune_runtime.load(sys.argv[2], threads=int(sys.argv[3]))
loaded = time.perf_counter()
import numpy
images = numpy.random.default_rng(0).random((1, *model.shape), numpy.float32)
times = []
for _ in range(201):
    begin = time.perf_counter()
    model(images)
    times.append(time.perf_counter() - begin)
assert not {"torch", "robustprune"} & sys.modules.keys()
rss, peak = mib()
print(json.dumps({
    "import": imported - start, "load": loaded - imported, "first": times[0],
    "image": sorted(times[1:])[100], "rss": rss, "peak": peak,
}))
"""


def main() -> None:
    arguments = _arguments()
    with TemporaryDirectory() as name:
        folder = Path(name)
        _installed(folder)
        file = folder / "net.sparse"
        network = _network("vgg16_bn_cifar", arguments.density)
        with torch.no_grad():
            for name in network.masks:  # so that activations do not die
                network.model.get_parameter(name).mul_(arguments.density**-0.5)
            create("sparse").export(network, file)
        rounds = {"empty": 1, "full": arguments.rounds}
        rows = [
            {"cache": cache, "runs": [_run(folder, file, arguments.threads) for _ in range(number)]}
            for cache, number in rounds.items()
        ]
        size = file.stat().st_size
    heads = ["cache of kernels", "import s", "load s", "both s", "resident MiB", "peak MiB"]
    heads += ["first image ms", "image ms"]
    text = (
        f"VGG16 at density {arguments.density:g}, {arguments.threads} thread(s): a file of "
        f"{size:,} bytes. Medians; the first row is one process, which compiles.\n\n"
        + table(heads, [_cells(row) for row in rows])
    )
    command = " ".join(["python benchmarks/runtime.py", *sys.argv[1:]])
    write("runtime", "The runtime without torch", command, rows, text)


def _cells(row: dict[str, Any]) -> list[str]:
    def median(key: str) -> float:
        return statistics.median(run[key] for run in row["runs"])

    both = statistics.median(run["import"] + run["load"] for run in row["runs"])
    seconds = [f"{median('import'):.2f}", f"{median('load'):.2f}", f"{both:.2f}"]
    memory = [f"{median('rss'):.0f}", f"{median('peak'):.0f}"]
    images = [f"{1e3 * median(key):.2f}" for key in ("first", "image")]
    return [row["cache"], *seconds, *memory, *images]


def _installed(folder: Path) -> None:
    """The runtime's wheel, unpacked; building leaves files beside the sources."""
    for name in ("runtime", "robustprune/kernels"):
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, folder / "sources" / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(folder / "sources/runtime")]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")


def _run(folder: Path, file: Path, threads: int) -> dict[str, float]:
    libraries = {sysconfig.get_path(key) for key in ("purelib", "platlib")}
    paths = [str(folder / "installed"), *sorted(libraries)]
    command = [sys.executable, "-I", "-S", "-c", CHILD, json.dumps(paths), str(file), str(threads)]
    environment = os.environ | {"ROBUSTPRUNE_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="processes with a full cache")
    return parser.parse_args()


if __name__ == "__main__":
    main()
