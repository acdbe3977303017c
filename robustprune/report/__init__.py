"""Reports: the results of runs as one page, drawn from the files of their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustprune.tracking import Console

__all__ = ["write_report"]


def write_report(
    folders: Sequence[Path], out: Path, *, ended: bool = False, console: Console | None = None
) -> Path:
    """Write one self-contained HTML page about some runs, and its figures into a folder.

    Equal input gives an equal page. What a run names (its imports, its dataset) is neither executed
    nor downloaded.

    Args:
        folders: run folders, or ``results.json`` files; those of one recipe are shown as means.
        out: the page, ``….html``, which is returned; each figure is an SVG and a PDF in the folder
            ``…-figures`` beside it.
        ended: the runs have come to their end, though their folders do not say so yet.
        console: shows a bar while the page is drawn; silent if absent.

    Raises:
        UsageError: something is no run folder, or the page cannot be written.
    """
    from robustprune.report.page import write_page  # and matplotlib, which a run waits for last

    return write_page(folders, out, ended=ended, console=console or Console(quiet=True))
