"""Reports: what runs found, as one page to look at, drawn from the files of their folders.

Importing this package is quick: matplotlib and torch are imported when a page is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustprune.tracking import Console

__all__ = ["write_report"]


def write_report(
    folders: Sequence[Path], out: Path, *, ended: bool = False, console: Console | None = None
) -> Path:
    """Write one self-contained HTML page about some runs, and its figures as PNGs beside it.

    Equal input gives an equal page: it holds no date. Nothing is fetched, and what a run names
    (its imports, its dataset) is neither executed nor downloaded.

    Args:
        folders: run folders, or ``results.json`` files on their own. Runs of one recipe that
            differ in their seeds only are shown as means.
        out: the page, ``….html``; a figure lies beside it as ``…-<figure>.png``.
        ended: the runs have come to their end, though their folders do not say so yet.
        console: shows a bar while the page is drawn; silent if absent.

    Returns:
        ``out``.

    Raises:
        UsageError: something is no run folder, or the page cannot be written.
    """
    from robustprune.report.page import write_page

    return write_page(folders, out, ended=ended, console=console)
