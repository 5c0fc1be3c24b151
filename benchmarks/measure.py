"""What every row needs: a line of the table, calls timed in turns, and one core for rows that ask for it."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Amount = TypeVar("Amount")


@dataclass(frozen=True)
class Scope:
    """How much is measured: tiny is the least work that shows that a row still runs; its figures mean nothing."""

    tiny: bool
    venv: Path
    """The virtual environment of pythae."""

    def pick(self, full: Amount, tiny: Amount) -> Amount:
        """Return the amount of work for the full benchmark or for a tiny one."""
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Line:
    """A line of the table; ratio says how many times better ours is, unless work says otherwise."""

    name: str
    work: str
    unit: str
    usual: float | None
    ours: float | None
    ratio: float | None
    notes: tuple[str, ...] = ()


def race(works: Sequence[Callable[[], float | None]], rounds: int) -> list[list[float]]:
    """Run calls in turns, so that noise hits all alike; return the seconds of each, a list for each call.

    A call that returns a number has measured itself the seconds that count.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, work in enumerate(works):
            begin = time.perf_counter()
            measured = work()
            seconds[place].append(time.perf_counter() - begin if measured is None else measured)
    return seconds


def spread(seconds: Sequence[float]) -> str:
    """Return the best and the median of rounds in words, so that a reader sees the noise."""
    return f"best {min(seconds):.3g} s, median {statistics.median(seconds):.3g} s of {len(seconds)}"


def one_core() -> None:
    """Keep this process and all its threads on one core, and libraries at one thread; call it before their import."""
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0))
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
