"""A command's time, and the most anonymous memory that it and its descendants hold at once (Linux)."""

import subprocess
import tempfile
import threading
import time
from pathlib import Path

PROC = Path("/proc")
INTERVAL_S = 0.1
"""Time between two readings: a shorter peak may be missed."""


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak in MB, summed over its process tree."""
    peaks, ended = [0], threading.Event()
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

        def read_memory() -> None:
            while not ended.wait(INTERVAL_S):
                peaks.append(sum(map(anonymous, tree(process.pid))))

        watcher = threading.Thread(target=read_memory)
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - begin
        ended.set()
        watcher.join()
        if status:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {output.read().strip()[-2000:]}")
    return seconds, max(peaks) / 1e6


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
