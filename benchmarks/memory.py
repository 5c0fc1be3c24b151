"""A command's time, and the most anonymous memory that it and its descendants hold at once (Linux)."""

import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
INTERVAL_S = 0.1
"""Time between two readings: a shorter peak may be missed."""


class Watch(NamedTuple):
    """A command that ran: when it began (time.time), its seconds, exit status and last words, and readings.

    readings: (time, bytes of its process tree).
    """

    begin: float
    seconds: float
    status: int
    words: str
    readings: list[tuple[float, int]]

    def peak_mb(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """Return the highest reading in MB, of all or between two times; where there is none, the one next to them."""
        between = [held for when, held in self.readings if begin <= when < end]
        if not between and self.readings:
            between = [min(self.readings, key=lambda reading: abs(reading[0] - begin))[1]]
        return max(between, default=0) / 1e6


def watch(command: list[str], limit_mb: float = float("inf")) -> Watch:
    """Run a command; it is killed when it holds more than the limit."""
    readings: list[tuple[float, int]] = []
    ended = threading.Event()
    with tempfile.TemporaryFile("w+") as output:
        begin, counter = time.time(), time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

        def read_memory() -> None:
            while not ended.wait(INTERVAL_S):
                readings.append((time.time(), sum(map(anonymous, tree(process.pid)))))
                if readings[-1][1] > 1e6 * limit_mb:
                    process.kill()

        watcher = threading.Thread(target=read_memory)
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - counter
        ended.set()
        watcher.join()
        output.seek(0)
        return Watch(begin, seconds, status, output.read().strip()[-2000:], readings)


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak in MB, summed over its process tree."""
    run = watch(command)
    if run.status:
        raise RuntimeError(f"{' '.join(command)} failed: {run.words}")
    return run.seconds, run.peak_mb()


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue  # it ended in the meantime
        # The name, in brackets, may hold anything.
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(folder.name))
    processes = [root]
    for process in processes:
        processes += children.get(process, [])
    return processes


def anonymous(process: int) -> int:
    """Return the bytes of memory that no file backs; 0 for a process that has ended."""
    try:
        text = (PROC / str(process) / "smaps_rollup").read_text()
    except OSError:
        return 0
    kilobytes = next((line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:")), "0")
    return 1024 * int(kilobytes)
