"""Progress of long work: a bar with the time left on a terminal, a plain line now and then elsewhere."""

import os
import sys
from threading import Timer
from time import monotonic
from typing import Any, Self, TextIO

from mammovae.report.formatting import duration

_FIRST_LINE_S, _INTERVAL_S = 1.0, 10.0


class Progress:
    """Counts work done; use as `with Progress("preparing", 20000, unit="images") as progress: progress.advance()`.

    Writes to standard error, so that results can be piped; says nothing when total is 0. Work that an earlier call had
    finished is given as done and does not count towards the rate. On a terminal one bar within another is a line of its
    own; elsewhere there is a line after a second, then one at most every 10 s and one at the end, also when an error
    stops the work. A total of None is unknown: the first line comes at once. Of processes that train together, as
    torchrun numbers them, the first alone writes.
    """

    def __init__(
        self, what: str, total: int | None, unit: str = "images", done: int = 0, stream: TextIO | None = None
    ) -> None:
        self.what, self.unit, self.done = what, unit, done
        is_follower = "LOCAL_WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0"
        self.total = 0 if is_follower else total
        self._first, self._note, self._stream = done, "", stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._timer = Timer(_FIRST_LINE_S, self._write_if_due)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Begin to count time."""
        self._begin = monotonic()
        self._next_line = self._begin + (0 if self.total is None else _FIRST_LINE_S)
        if self.total == 0:
            return self
        if self._stream.isatty():
            self._bar = _Bars.start(self._stream)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, unit=self.unit, note="")
        elif self.total is None:
            self._write_if_due()
        else:
            self._timer.start()  # the first piece of work may take long
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count further work as done; note (such as "loss 123.4") stands at the end of the line until the next note."""
        self.done += count
        self._note = note or self._note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif self.total != 0:
            self._write_if_due()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Write the last line, or take the bar away."""
        self._timer.cancel()
        time = duration(monotonic() - self._begin)
        if self._bar:
            _Bars.stop(self._task)
        elif self.total != 0 and kind is None and self.done >= (self.total or 0):
            self._write(f"{self.done:,} {self.unit} in {time}", self._note)
        elif self.total != 0:
            self._write(f"stopped at {self._count()} after {time}")

    def _write_if_due(self) -> None:
        now = monotonic()
        if now < self._next_line:
            return
        self._next_line = now + _INTERVAL_S
        rate = (self.done - self._first) / max(now - self._begin, 1e-9)
        pace = f"{rate:,.0f}/s" if rate >= 100 else f"{rate:,.1f}/s" if rate >= 1 else f"{rate * 60:,.1f}/min"
        parts = [self._count()]
        if self.total is not None:
            parts[0] += f" ({100 * self.done / self.total:.0f} %)"
        if rate:
            parts.append(pace)
        if self.total is not None:
            parts.append(f"{duration((self.total - self.done) / rate)} left" if rate else "time left unknown")
        self._write(", ".join(parts), self._note)

    def _count(self) -> str:
        return f"{self.done:,} " + ("" if self.total is None else f"of {self.total:,} ") + self.unit

    def _write(self, line: str, note: str = "") -> None:
        print(f"{self.what}: {line}" + (f", {note}" if note else ""), file=self._stream, flush=True)


class _Bars:
    """The one live display of the terminal, which nested bars share; it ends with the bar that began it."""

    open: Any = None

    @classmethod
    def start(cls, stream: TextIO) -> Any:
        if cls.open is None:
            from rich import progress as bars
            from rich.console import Console

            times = (bars.TimeElapsedColumn(), "left", bars.TimeRemainingColumn())
            counts = ("{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), "{task.fields[unit]}")
            cls.open = bars.Progress(*counts, *times, "{task.fields[note]}", console=Console(file=stream))
            cls.open.start()
        return cls.open

    @classmethod
    def stop(cls, task: Any) -> None:
        if task == cls.open.task_ids[0]:
            cls.open.stop()
            cls.open = None
        else:
            cls.open.remove_task(task)
