"""Progress of long work: sparse lines in a log, a bar on a terminal, nothing for nothing."""

import io
import subprocess
import sys

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


def test_a_log_gets_a_line_every_ten_seconds_with_rate_and_time_left(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("preparing", 1200, stream=log) as progress:
        for _ in range(30):
            clock.now += 1
            progress.advance(40, note="loss 1.5")
    lines = log.getvalue().splitlines()
    assert lines[0] == "preparing: 400 of 1,200 images (33 %), 40.0/s, 20 s left, loss 1.5"
    assert lines[-1] == "preparing: 1,200 images in 30 s, loss 1.5"
    assert len(lines) == 4


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
