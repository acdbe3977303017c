from __future__ import annotations

import errno
import io
import itertools
import re

import pytest

from robustprune.tracking import Console, console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_log_file_on_a_full_disk_stops_nothing_and_goes_on_when_there_is_room() -> None:
    class Filled(io.StringIO):
        full = True

        def flush(self) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")

    log = Filled()
    shown = Console(file=log)
    with shown.progress("epoch 1/2", 1) as bar:
        bar.advance()
    log.full = False
    shown.info("epoch 2/2")
    assert "epoch 1/2" in log.getvalue()
    assert log.getvalue().endswith("epoch 2/2\n")


def test_other_faults_of_a_log_file_are_told() -> None:
    class Torn(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        Console(file=Torn()).info("a line")


def test_a_reader_that_has_gone_stops_nothing() -> None:
    written = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            raise BrokenPipeError

    out = Console(file=Gone())
    out.info("to nobody")
    out.info("nor this")
    with out.progress("work", 1) as bar:
        bar.advance()
    assert len(written) == 1


def test_a_finished_bar_is_one_plain_line_in_a_log_file() -> None:
    file = io.StringIO()
    with Console(file=file).progress("dense pretrain 1/8", 3) as bar:
        for _ in range(3):
            bar.advance(loss=1.23456, accuracy=0.5)
    text = file.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert text.startswith("dense pretrain 1/8  3/3  loss 1.23  accuracy 0.5  0:00  ")
    assert text.endswith(" step/s\n")


def test_what_an_earlier_process_did_tells_nothing_of_the_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(0, 40)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    with Console(file=file).progress("resumed", 100, before=80) as bar:
        bar.advance(10)
    first, _ = file.getvalue().splitlines()
    assert first == "resumed  90/100  1:20 left  1:20  0.125 step/s"


def test_a_long_bar_prints_about_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 5)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    with Console(file=file).progress("slow", 20) as bar:
        for _ in range(20):
            bar.advance()
    lines = file.getvalue().splitlines()
    assert 3 <= len(lines) <= 8
    assert all(" left  " in line for line in lines[:-1])
    assert "20/20" in lines[-1]


def test_a_brief_bar_leaves_no_line_unless_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    with Console(file=file).progress("validation", 2, brief=True) as bar:
        bar.advance(2)
    assert file.getvalue() == ""
    clock = itertools.count(0, 20)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with Console(file=file).progress("validation", 2, brief=True) as bar:
        bar.advance()
        bar.advance()
    assert file.getvalue().startswith("validation  ")


def test_an_exception_still_leaves_the_line_and_passes() -> None:
    file = io.StringIO()

    def interrupted() -> None:
        with Console(file=file).progress("x", 3) as bar:
            bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "x  1/3" in file.getvalue()


def test_a_terminal_shows_a_moving_bar_and_stops_it_on_ctrl_c(terminal: Terminal) -> None:
    shown = Console(file=terminal)

    def interrupted() -> None:
        with shown.progress("dense", 3) as bar:
            bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = terminal.getvalue()
    assert "\x1b[?25l" in text  # the cursor was hidden
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and is back
    assert "dense  1/3" in text.splitlines()[-1]
    with shown.progress("again", 1) as bar:
        bar.advance()
    assert "again  1/1" in terminal.getvalue()


def test_a_bar_within_a_bar_is_plain(terminal: Terminal) -> None:
    shown = Console(file=terminal)
    with shown.progress("outer", 1) as outer, shown.progress("inner", 1) as inner:
        inner.advance()
        outer.advance()
    assert terminal.getvalue().count("\x1b[?25l") == 1
    assert "inner  1/1" in terminal.getvalue()


def test_text_is_printed_as_it_is_and_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold] densities [0.1, 0.05] :warning: " + "word " * 100
    Console().info(text)
    assert capsys.readouterr().out == text + "\n"


def test_warnings_and_errors_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console()
    shown.warn("careful [x]")
    shown.error("broken")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "warning: careful [x]\nerror: broken\n"


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(quiet=True)
    shown.info("a")
    shown.table("t", ["a"], [["1"]])
    with shown.progress("x", 1) as bar:
        bar.advance()
    shown.warn("w")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "warning: w\n")


def test_a_table_is_not_folded_at_80_columns() -> None:
    file = io.StringIO()
    long = "network-" * 12
    Console(file=file).table("Results", ["network", "clean"], [[long, "41.0 %"], ["[b]", "9.5 %"]])
    lines = file.getvalue().splitlines()
    assert any(long in line and "41.0 %" in line for line in lines)
    assert any("[b]" in line and line.rstrip().endswith(" 9.5 %") for line in lines)
    assert "\x1b" not in file.getvalue()


def test_a_narrow_terminal_folds_and_cuts_no_table(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    title = "runs/quickstart/some folder/of a run"
    row = ["hydra-0.01", "75.0 ± 17.8", "41.0 ± 9.5"]
    Console(file=terminal).table(title, ["network", "autoattack", "pgd"], [row])
    lines = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert lines[0] == title
    assert re.split(" {2,}", lines[-1].strip()) == row
    assert lines[1].split() == ["network", "autoattack", "pgd"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, "━━━━━━━━━━ hydra  120/200  0:13 left  loss 1.5  0:20  6 step/s"),
        (40, "━━━━━━━━━━ hydra  120/200  0:13 left  l…"),
    ],
)
def test_a_moving_line_is_cut_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int, shown: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with Console(file=terminal).progress("hydra", 200) as bar:
        clock[0] = 20.0
        bar.advance(120, loss=1.5)
    frame = terminal.getvalue().split("\x1b[2K")[-2]
    text = re.sub("\x1b\\[[?0-9;]*[a-zA-Z]", "", frame).splitlines()[0]
    assert text.strip().replace("╸", "━").replace("╺", "━") == shown
