"""The console: lines, tables and progress, for a terminal as well as for a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import IO, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import JustifyMethod
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.table import Column, Table
from rich.text import Text

from robustprune.files import FULL

_EVERY = 30.0  # seconds between two lines of a long bar in a log file
_TICK = 0.1  # the same for the moving bar
_WIDE = 240  # columns of a log file
_BAR = 20  # the same of the moving bar
_UNBOUNDED = 100_000  # columns in which every table fits


class Bar:
    """How far a piece of work is. `advance` may be called hundreds of times a second.

    Args:
        console: where the lines go.
        title: what is done.
        total: steps in all.
        unit: what a step is called.
        live: the moving bar of a terminal; None in a log file.
        before: steps that were done before this piece of work began, and tell nothing of its speed.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        *,
        unit: str,
        live: Progress | None,
        before: int = 0,
    ) -> None:
        self._console, self._unit, self._live = console, unit, live
        self.title = title
        self._total, self._done, self._before = total, before, before
        self._fields: dict[str, Any] = {}
        self._dropped = 0  # how much of the moving line found no room
        self._began = self._said = time.monotonic()
        self._task = live.add_task(title, total=total, bar=self) if live else TaskID(0)

    def advance(self, n: int = 1, **fields: float | str) -> None:
        """Count ``n`` steps more and show ``fields`` (loss, accuracy, …) from now on."""
        self._done += n
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._said < (_EVERY if self._live is None else _TICK):
            return
        self._said = now
        if self._live is None:
            self._console.info(self.line(left=True))
        else:
            self._live.update(self._task, completed=self._done)

    def line(self, *, left: bool = False) -> str:
        """The state as one line of plain text; ``left`` adds the time left."""
        pieces = self._pieces()
        if not left:
            del pieces["left"]
        return _joined(pieces)

    def moving(self, width: int, drawing: str = "") -> str:
        """The state in ``width`` columns, for a terminal.

        What matters most stays: the title, how much is done, the time left. ``drawing``, the
        elapsed time and the speed go first, then the fields are cut.
        """
        pieces = self._pieces(drawing)
        for name in _SPARE[: self._dropped]:
            del pieces[name]
        for name in _SPARE[self._dropped :]:
            if cell_len(_joined(pieces)) <= width:
                break
            del pieces[name]
            self._dropped += 1  # for good, or the line would flicker
        return _joined(pieces)

    @property
    def share(self) -> float:
        """How much is done, in [0, 1]."""
        return min(self._done / self._total, 1.0) if self._total else 1.0

    def _pieces(self, drawing: str = "") -> dict[str, str]:
        elapsed = time.monotonic() - self._began
        done = self._done - self._before
        rest = elapsed / max(done, 1) * (self._total - self._done)
        return {
            "title": self.title,
            "drawing": drawing,
            "done": f"{self._done}/{self._total}",
            "elapsed": _clock(elapsed),
            "speed": f"{done / max(elapsed, 1e-9):.3g} {self._unit}/s",
            "left": f"{_clock(rest)} left" if done else "",
            "fields": "  ".join(map(_field, self._fields.items())),
        }


_SPARE = ("drawing", "elapsed", "speed")  # what a moving line does without, in this order


class _Line(ProgressColumn):
    """The whole line of a bar, made to fit the terminal; never folded."""

    def __init__(self, console: RichConsole) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._console = console
        plain = not console.encoding.lower().startswith("utf")
        self._ink, self._paper = ("#", ".") if plain else ("━", "─")

    def render(self, task: Task) -> Text:
        bar: Bar = task.fields["bar"]
        ink = round(bar.share * _BAR)
        drawing = self._ink * ink + self._paper * (_BAR - ink)
        return Text(bar.moving(self._console.width, drawing), no_wrap=True, overflow="ellipsis")


class Console:
    """Prints for people: lines and tables to standard output, warnings to standard error.

    Args:
        quiet: only warnings and errors.
        file: used instead of standard output.
    """

    def __init__(self, *, quiet: bool = False, file: IO[str] | None = None) -> None:
        self._quiet = quiet
        self._out = _rich(file)
        self._err = _rich(None, stderr=True)
        self._busy = False

    def info(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._out.print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning to standard error. May be called from another thread."""
        self._complain(Text(f"warning: {text}", style="yellow"))

    def error(self, text: str) -> None:
        """Print an error to standard error."""
        self._complain(Text(f"error: {text}", style="red"))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; columns of numbers are aligned to the right.

        Nothing is folded or cut: in a narrow terminal the lines run over, as any long line does.
        """
        if self._quiet:
            return
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
    ) -> Iterator[Bar]:
        """Show a bar while the block runs; one line of it stays.

        In a terminal the bar moves. Elsewhere, and for a bar within a bar, a line is printed at
        the end and about every 30 s before.

        Args:
            title: what is done.
            total: steps in all.
            unit: what a step is called.
            brief: no line stays: what the bar shows is told elsewhere, too.
            before: steps that an earlier process has done.
        """
        moving = not self._quiet and not self._busy and self._out.is_terminal
        live = _live(self._out) if moving and not self._out.is_dumb_terminal else None
        bar = Bar(self, title, total, unit=unit, live=live, before=before)
        self._busy = self._busy or live is not None
        try:
            with live or nullcontext():
                yield bar
        finally:
            self._busy = self._busy and live is None
            if not brief:
                self.info(bar.line())

    def _complain(self, text: Text) -> None:
        # One terminal shows both streams: go through the bar's console, or the bar is torn.
        to = self._out if self._busy and self._err.is_terminal else self._err
        to.print(text, soft_wrap=True)


class Silent(Console):
    """Prints nothing at all: of several processes one does the talking."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def _complain(self, text: Text) -> None:
        """Keep it to itself."""


class _Quiet(RichConsole):
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
        self.file = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)


def _rich(file: IO[str] | None, *, stderr: bool = False) -> RichConsole:
    """A rich console that prints text as it is: no markup, no emoji codes, no guessed colours."""
    stream = file or (sys.stderr if stderr else sys.stdout)
    terminal = stream.isatty()
    return _Quiet(
        file=file,
        stderr=stderr,
        force_terminal=terminal,
        force_jupyter=False,
        width=None if terminal else _WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _live(console: RichConsole) -> Progress:
    """The moving bar; it vanishes when it stops, and the caller prints the line that stays."""
    return Progress(
        _Line(console),
        console=console,
        transient=True,
        refresh_per_second=4,
        redirect_stderr=sys.stderr.isatty(),  # elsewhere standard error goes its own way
    )


def _joined(pieces: Mapping[str, str]) -> str:
    return "  ".join(filter(None, pieces.values()))


def _field(item: tuple[str, float | str]) -> str:
    name, value = item
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


def _clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _is_numeric(cell: str) -> bool:
    return bool(cell) and cell.strip("% ").replace(".", "", 1).replace("-", "", 1).isdigit()
