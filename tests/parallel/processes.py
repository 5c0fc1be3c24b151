"""Waiting for what processes do, for several tests."""

import time
from collections.abc import Callable, Iterator

import psutil


class CountedTasks:
    """The numbers from 1 on, without end, and how many of them have been requested."""

    requested = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.requested += 1
            yield self.requested


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    """Say whether a process has ended; where no process waits for it, it stays as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
