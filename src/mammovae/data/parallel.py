"""Run one function over many inputs in worker processes, where a worker that dies costs only its own input."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from mammovae.config import InputError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
) -> Iterator[tuple[Task, Result | InputError]]:
    """Yield (task, result) as results come, in no fixed order; a task that raised or crashed gives an InputError.

    Without an executor, worker processes are started (as many as there are cores; with workers=1 the
    work is done in this process). At most four tasks a worker are under way, so memory stays flat.
    """
    guarded = partial(_guarded, function)
    if executor is not None:
        yield from _through(executor, guarded, iter(tasks), 64, [])
        return
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}: give at least 1")
    count = workers or os.cpu_count() or 1
    if count == 1:
        for task in tasks:
            yield task, guarded(task)
        return
    remaining = iter(tasks)
    broken, answered = True, False
    while broken:
        suspects: list[Task] = []
        with _pool(count) as pool:
            try:
                for answer in _through(pool, guarded, remaining, 4 * count, suspects):
                    answered = True
                    yield answer
                broken = False
            except BrokenProcessPool:
                if not answered:
                    _check_that_processes_start()
                    answered = True
        # Which of the tasks under way killed its worker is not known: each gets a process of its own.
        for task in suspects:
            with _pool(1) as alone:
                try:
                    yield task, alone.submit(guarded, task).result()
                except BrokenProcessPool:
                    yield task, InputError("decoding crashed the worker process: the file is damaged, or its codec is")


def _through(
    pool: Executor,
    function: Callable[[Task], Any],
    remaining: Iterator[Task],
    window: int,
    under_way: list[Task],
) -> Iterator[tuple[Task, Any]]:
    """Keep window tasks under way; under_way lists those not yet answered, should the pool break."""
    futures: dict[Future, Task] = {}

    def submit(task: Task) -> None:
        under_way.append(task)
        futures[pool.submit(function, task)] = task

    for task in islice(remaining, window):
        submit(task)
    while futures:
        for future in wait(futures, return_when=FIRST_COMPLETED).done:
            result = future.result()
            task = futures.pop(future)
            under_way.remove(task)
            yield task, result
            for following in islice(remaining, 1):
                submit(following)


def _guarded(function: Callable[[Task], Result], task: Task) -> Result | InputError:
    try:
        return function(task)
    except InputError as error:
        return error
    except Exception as error:
        # One bad file among many must stay one row, whatever a decoder throws at it.
        return InputError(f"unexpected {type(error).__name__}: {error}")


class _Pool(ProcessPoolExecutor):
    """Worker processes that do not run the user's script again.

    A spawned process imports the main module, and a script without a main guard would start its own work there;
    ours needs nothing of it.
    """

    def submit(self, *work: Any, **words: Any) -> Future:
        main = sys.modules["__main__"]
        hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
        main.__spec__ = None
        try:
            return super().submit(*work, **words)
        finally:
            main.__dict__.update(hidden)


def _pool(count: int) -> _Pool:
    return _Pool(count, multiprocessing.get_context("spawn"), initializer=_die_with_parent)


def _check_that_processes_start() -> None:
    """Tell a machine on which no worker can run from a file that kills its worker."""
    try:
        with _pool(1) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise InputError("worker processes cannot be started here: use --workers 1 (workers=1)") from None


def _die_with_parent() -> None:
    """End this worker when the parent is killed: otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
