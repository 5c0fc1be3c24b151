"""Progress of long work: a bar with the time left on a terminal, a plain line now and then elsewhere."""

import sys
from time import monotonic
from typing import Any, Self, TextIO

from mammovae.report.formatting import duration


class Progress:
    """Counts work done; use as `with Progress("preparing", 20000, unit="images") as progress: progress.advance()`.

    Writes to standard error, so that results can be piped; says nothing when total is 0. Work that an earlier call had
    finished is given as done and does not count towards the rate. On a terminal one bar within another is a line of its
    own; elsewhere a line at most every `every` seconds and one at the end, also when an error stops the work.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "images",
        done: int = 0,
        every: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._every, self._first, self._note = every, done, ""
        self._stream = stream or sys.stderr
        self._begun = self._told = monotonic()
        self._bar: Any = None
        self._owner = False
        self._task: Any = None

    def __enter__(self) -> Self:
        self._begun = self._told = monotonic()
        if self.total and self._stream.isatty():
            self._owner = _Bars.open is None
            self._bar = _Bars.start(self._stream)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, unit=self.unit, note="")
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count further work as done; note (such as "loss 123.4") stands at the end of the line until the next note."""
        self.done += count
        self._note = note or self._note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif self.total and monotonic() - self._told >= self._every:
            self._told = monotonic()
            self._write(self._line())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._bar:
            if self._owner:
                _Bars.stop()
            else:
                self._bar.remove_task(self._task)
        elif self.total:
            time = duration(monotonic() - self._begun)
            if self.done >= self.total and kind is None:
                self._write(f"{self.what}: {self.done:,} {self.unit} in {time}" + self._tail())
            else:
                self._write(f"{self.what}: stopped at {self.done:,} of {self.total:,} {self.unit} after {time}")

    def _line(self) -> str:
        rate = (self.done - self._first) / max(monotonic() - self._begun, 1e-9)
        pace = f"{rate:,.1f}/s" if rate >= 1 else f"{rate * 60:,.1f}/min"
        left = f"{duration((self.total - self.done) / rate)} left" if rate else "time left unknown"
        share = f"{100 * self.done / self.total:.0f} %"
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit} ({share}), {pace}, {left}" + self._tail()

    def _tail(self) -> str:
        return f", {self._note}" if self._note else ""

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _Bars:
    """The one live display of the terminal, which nested bars share."""

    open: Any = None

    @classmethod
    def start(cls, stream: TextIO) -> Any:
        if cls.open is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Display

            cls.open = Display(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=Console(file=stream),
            )
            cls.open.start()
        return cls.open

    @classmethod
    def stop(cls) -> None:
        cls.open.stop()
        cls.open = None
