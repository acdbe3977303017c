"""Packages of the distribution: its own, and the kernels, which stand once, in robustprune."""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.sdist import sdist

SHARED = Path("../robustprune/kernels")
COPY = Path("kernels")  # in a source distribution


class WithKernels(sdist):
    """A source distribution, with a copy of the kernels."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Put the kernels beside the other files."""
        super().make_release_tree(base_dir, files)
        copytree(KERNELS, Path(base_dir) / COPY, ignore=ignore_patterns("__pycache__"))


KERNELS = COPY if COPY.is_dir() else SHARED

setup(
    cmdclass={"sdist": WithKernels},
    packages=["robustprune_runtime", "robustprune_runtime.kernels"],
    package_dir={"robustprune_runtime.kernels": KERNELS.as_posix()},
)
