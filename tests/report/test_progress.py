"""Progress of long work: sparse lines in a log, a bar on a terminal, nothing for nothing."""

import io
import subprocess
import sys
import time

import pytest

from mammovae.report import progress as module
from mammovae.report.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_after_a_second_and_every_ten_with_rate_and_time_left(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("preparing", 1200, stream=log) as progress:
        for _ in range(30):
            clock.now += 1
            progress.advance(40, note="loss 1.5")
    lines = log.getvalue().splitlines()
    assert lines[0] == "preparing: 40 of 1,200 images (3 %), 40.0/s, 29 s left, loss 1.5"
    assert lines[1] == "preparing: 440 of 1,200 images (37 %), 40.0/s, 19 s left, loss 1.5"
    assert lines[-1] == "preparing: 1,200 images in 30 s, loss 1.5"
    assert len(lines) == 4


def test_work_whose_first_piece_takes_long_is_announced_before_it_is_done() -> None:
    log = io.StringIO()
    with Progress("preparing", 20, stream=log):
        time.sleep(0.5)
        assert log.getvalue() == ""
        end = time.monotonic() + 5
        while not log.getvalue() and time.monotonic() < end:
            time.sleep(0.02)
        assert log.getvalue() == "preparing: 0 of 20 images (0 %), time left unknown\n"


@pytest.mark.parametrize("total", [20, None])
def test_of_processes_that_train_together_the_first_alone_writes(
    total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = io.StringIO(), io.StringIO()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank, log in enumerate(logs):
        monkeypatch.setenv("RANK", str(rank))
        with Progress("comparing folders", total, stream=log) as progress:
            progress.advance(20)
    first, other = (log.getvalue() for log in logs)
    assert "20" in first and other == ""


def test_work_of_unknown_size_is_announced_at_once_and_counted(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("listing", None, unit="files", stream=log) as progress:
        assert log.getvalue() == "listing: 0 files\n"
        for _ in range(12):
            clock.now += 1
            progress.advance(23_456)
    assert log.getvalue().splitlines()[1:] == ["listing: 234,560 files, 23,456/s", "listing: 281,472 files in 12 s"]


def test_work_of_unknown_size_that_stops_says_where() -> None:
    log = io.StringIO()
    with pytest.raises(RuntimeError), Progress("listing", None, unit="files", stream=log) as progress:
        progress.advance(3)
        raise RuntimeError
    assert log.getvalue().splitlines()[-1] == "listing: stopped at 3 files after 0 s"


def test_work_of_an_earlier_call_does_not_count_towards_the_rate(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("training", 60, unit="epochs", done=30, stream=log) as progress:
        clock.now += 600
        progress.advance(10)
    assert log.getvalue().splitlines()[0] == "training: 40 of 60 epochs (67 %), 1.0/min, 20 min left"


def test_work_that_stops_says_where(clock: Clock) -> None:
    log = io.StringIO()
    with pytest.raises(RuntimeError), Progress("preparing", 10, stream=log) as progress:
        progress.advance(3)
        raise RuntimeError
    assert log.getvalue() == "preparing: stopped at 3 of 10 images after 0 s\n"


def test_nothing_to_do_says_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress("preparing", 0, stream=stream):
            pass
        assert stream.getvalue() == ""


def test_a_terminal_shows_how_much_of_an_unknown_size_is_done() -> None:
    terminal = Terminal()
    with Progress("listing", None, unit="files", stream=terminal) as progress:
        progress.advance(1234)
    assert "1234/?" in terminal.getvalue()


def test_a_terminal_shows_a_bar_and_one_within_it() -> None:
    terminal = Terminal()
    with Progress("folds", 2, unit="folds", stream=terminal) as outer:
        with Progress("training", 3, unit="epochs", stream=terminal) as inner:
            inner.advance(3)
        outer.advance()
    assert "folds" in terminal.getvalue()
    assert module._Bars.open is None


def test_importing_it_is_cheap() -> None:
    code = "import sys, mammovae.report.progress; print([m for m in ('matplotlib', 'pandas', 'torch', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
