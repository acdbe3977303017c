"""Pack what a GPU machine without a network needs into pieces that travel.

    python benchmarks/gpu/pack.py --python 3.12 --data data/cifar10
    python benchmarks/gpu/pack.py --python 3.12 --data data/cifar10 --there pip-list.txt

Wheels of `wheels.txt` and CIFAR-10's parquet files go into numbered folders of at most 40 MB under
`benchmarks/gpu/cargo/`, which git ignores. Carry them over, as many at a time as are allowed;
`run.sh` puts them together. A large training file is split by rows, a large wheel by bytes. A list
of what the machine has, as `pip list` prints it there, leaves those wheels out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq

HERE = Path(__file__).parent
CARGO = HERE / "cargo"
MOST = 40_000_000
"""Bytes of a folder."""


def main() -> None:
    arguments = _arguments()
    shutil.rmtree(CARGO, ignore_errors=True)
    with TemporaryDirectory() as folder:
        pieces = []
        if not arguments.no_wheels:
            pieces += wheels(Path(folder), arguments.python, there=arguments.there)
        if arguments.data:
            pieces += images(arguments.data, Path(folder))
        for number, together in enumerate(packed(pieces)):
            target = CARGO / str(number)
            target.mkdir(parents=True)
            for piece in together:
                shutil.copy(piece, target)
    for target in sorted(CARGO.iterdir()):
        files = list(target.iterdir())
        size = sum(file.stat().st_size for file in files)
        print(f"{target}: {len(files)} files, {size / 1e6:.1f} MB")


def wheels(folder: Path, python: str, *, there: Path | None) -> list[Path]:
    """The wheels for a Python version on Linux, of the versions that are installed here.

    Those above the limit come in parts, and those of packages that are there not at all.
    """
    lines = there.read_text(encoding="utf-8").splitlines() if there else []
    present = {canonical(line.split()[0]) for line in lines if line.strip()}
    wanted = (HERE / "wheels.txt").read_text(encoding="utf-8").splitlines()
    names = [name for name in wanted if name[:1] != "#" and canonical(name) not in present]
    if not names:
        return []
    platforms = [f"manylinux{name}_x86_64" for name in ("2014", "_2_17", "_2_27", "_2_28")]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", python, *(f"--platform={name}" for name in platforms),
         "--dest", folder, *(f"{name}=={version(name)}" for name in names)],
        check=True,
    )  # fmt: skip
    pieces = []
    for wheel in folder.glob("*.whl"):
        if wheel.stat().st_size <= MOST:
            pieces.append(wheel)
            continue
        content = wheel.read_bytes()
        for number, start in enumerate(range(0, len(content), MOST // 2)):
            piece = folder / f"{wheel.name}.part-{number:02}"
            piece.write_bytes(content[start : start + MOST // 2])
            pieces.append(piece)
    return pieces


def canonical(name: str) -> str:
    """A package's name as indexes spell it."""
    return name.lower().replace("_", "-")


def images(data: Path, folder: Path) -> list[Path]:
    """The parquet files of a folder, each cut by rows until it fits."""
    pieces = []
    for file in sorted(data.glob("*.parquet")):
        split = file.name.partition("-")[0]
        table, count = pq.read_table(file), -(-file.stat().st_size // (MOST // 2))
        rows = -(-len(table) // count)
        for number in range(count):
            piece = folder / f"{split}-{number:05}-of-{count:05}.parquet"
            pq.write_table(table.slice(number * rows, rows), piece, row_group_size=1000)
            pieces.append(piece)
    return pieces


def packed(pieces: list[Path]) -> list[list[Path]]:
    """The pieces in groups of at most `MOST` bytes, the largest ones placed first."""
    groups: list[list[Path]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda path: -path.stat().st_size):
        size = piece.stat().st_size
        fits = [number for number, left in enumerate(room) if left >= size]
        if fits:
            groups[fits[0]].append(piece)
            room[fits[0]] -= size
        else:
            groups.append([piece])
            room.append(MOST - size)
    return groups


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=here, help="version there (default: this one)")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--there", type=Path, help="file with what `pip list` prints there")
    parser.add_argument("--no-wheels", action="store_true", help="the data only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
