"""The console: lines, tables and progress, for a terminal as well as for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import IO, Any

from rich import box
from rich.console import Console as RichConsole
from rich.console import JustifyMethod
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column, Table
from rich.text import Text

from robustprune.files import FULL
from robustprune.tracking.progress import Whole

_EVERY = 30.0  # seconds between two lines of a long bar in a log file
_UNBOUNDED = 100_000  # columns in which every table fits


class Bar:
    """The progress of a piece of work, made by `Console.progress`, which has the arguments."""

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        unit: str,
        before: int,
        live: Progress | None,
        whole: Whole | None = None,
    ) -> None:
        self._console, self._title, self._unit, self._live = console, title, unit, live
        self._whole = whole
        self._total, self._done, self._before = total, before, before
        self._fields: dict[str, float | str] = {}
        self._began = self._updated = time.monotonic()
        self._task = live.add_task("", total=total, bar=self) if live else TaskID(0)
        self._below = live.add_task("", total=1, bar=whole) if live and whole else TaskID(0)

    def advance(self, n: int = 1, **fields: float | str) -> None:
        """Count ``n`` steps more and show ``fields`` (loss, accuracy, …) from now on."""
        self._done += n
        self._fields.update(fields)
        if self._whole is not None:
            self._whole.advance(n)
        if self._live is not None:
            self._live.update(self._task, completed=self._done)
            if self._whole is not None:
                self._live.update(self._below, completed=self._whole.share)
        elif (now := time.monotonic()) - self._updated >= _EVERY:
            self._updated = now
            self._console.info(self.line(left=True))

    def line(self, *, left: bool = False) -> str:
        """The state as one line of plain text; ``left`` adds the time left."""
        elapsed = max(time.monotonic() - self._began, 1e-9)
        speed = (self._done - self._before) / elapsed
        words = [self._title, f"{self._done}/{self._total}"]
        if left and speed:
            words.append(f"{_clock((self._total - self._done) / speed)} left")
        for name, value in self._fields.items():
            words.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
        words += [_clock(elapsed), f"{speed:.3g} {self._unit}/s"]  # last: a narrow terminal cuts it
        if self._whole is not None and self._live is None:
            words.append(self._whole.line())
        return "  ".join(words)


class _Line(ProgressColumn):
    """A bar's line, cut at the terminal's edge and never folded."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].line(left=True), no_wrap=True, overflow="ellipsis")


class Console:
    """Prints for people: lines and tables to standard output, warnings to standard error.

    A quiet one prints warnings and errors only; ``file`` is used instead of standard output.

    Attributes:
        whole: the run that bars are parts of, shown with them; None if they are of none.
    """

    whole: Whole | None = None

    def __init__(self, *, quiet: bool = False, file: IO[str] | None = None) -> None:
        # Text is printed as it is: no markup, no emoji codes, no guessed colours.
        plain = partial(
            _TolerantConsole, force_jupyter=False, markup=False, emoji=False, highlight=False
        )
        terminal = (file or sys.stdout).isatty()
        self._out = plain(file=file, quiet=quiet, force_terminal=terminal)
        self._err = plain(stderr=True, force_terminal=sys.stderr.isatty())
        self._bar_moves = False

    def info(self, text: str) -> None:
        """Print a line."""
        self._out.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning to standard error. May be called from another thread."""
        self._print_error(Text(f"warning: {text}", style="yellow"))

    def error(self, text: str) -> None:
        """Print an error to standard error."""
        self._print_error(Text(f"error: {text}", style="red"))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; columns of numbers are aligned to the right.

        Nothing is folded or cut: in a narrow terminal the lines run over, as any long line does.
        """
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(_is_numeric(row[index]) for row in rows)
            justify: JustifyMethod = "right" if numeric else "left"
            table.add_column(Text(column), justify=justify, no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        unbounded = self._out.options.update(width=_UNBOUNDED)
        table.width = self._out.measure(table, options=unbounded).maximum
        self._out.print(Text(title, style="table.title"), soft_wrap=True)
        self._out.print(table, crop=False)

    @contextmanager
    def progress(
        self,
        title: str,
        total: int,
        *,
        unit: str = "step",
        brief: bool = False,
        before: int = 0,
        part: tuple[str, str, int] | None = None,
    ) -> Iterator[Bar]:
        """Show a bar while the block runs; one line of it stays.

        In a terminal the bar moves. Elsewhere, and for a bar within a bar, a line is printed at
        the end and about every 30 s before. Of a ``brief`` one no line stays: what it shows is told
        elsewhere, too. An earlier process has done ``before`` steps of the ``total``; they tell
        nothing of the speed, which is in ``unit`` per second. ``part`` says which `Work` of the
        ``whole`` it is: network, name, and the units of it that were done before.
        """
        whole = self.whole if part is not None else None
        if whole is not None and part is not None:
            whole.begin(*part[:2], done=part[2])
        moving = self._out.is_terminal and not (
            self._out.quiet or self._out.is_dumb_terminal or self._bar_moves
        )
        live = Progress(
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            _Line(),
            console=self._out,
            transient=True,  # the line that stays is printed below
            refresh_per_second=4,
            redirect_stderr=sys.stderr.isatty(),  # elsewhere standard error goes its own way
        )
        bar = Bar(self, title, total, unit, before, live if moving else None, whole)
        self._bar_moves |= moving
        try:
            with live if moving else nullcontext():
                yield bar
        finally:
            self._bar_moves &= not moving
            if not brief:
                self.info(bar.line())

    def _print_error(self, text: Text) -> None:
        # One terminal shows both streams: go through the bar's console, or the bar is torn.
        to = self._out if self._bar_moves and self._err.is_terminal else self._err
        to.print(text, soft_wrap=True)


class Silent(Console):
    """Prints nothing at all: of several processes one does the talking."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._err.quiet = True


class _TolerantConsole(RichConsole):
    """Goes on in silence when its reader has gone (``robustprune run … | head``).

    It does so while the disk of its file is full, too: its lines come when there is room.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            if error.errno not in FULL:
                raise

    def on_broken_pipe(self) -> None:
        self.quiet = True


def _clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _is_numeric(cell: str) -> bool:
    return bool(cell) and cell.strip("% ").replace(".", "", 1).replace("-", "", 1).isdigit()
