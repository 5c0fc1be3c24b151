"""Run one function over many inputs, here or on a Dask cluster, where one that crashes or hangs costs only itself."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import Empty, LifoQueue, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from mammovae.config import InputError, UsageError
from mammovae.parallel.worker import WorkerProcess, WorkerStartError, WorkSpec, call_safely, serialise

Task = TypeVar("Task")
Result = TypeVar("Result")

_WINDOW = 64
"""Tasks under way in an executor that was given, whose size is not known."""
DEFAULT_TIMEOUT_S = 600.0
"""Seconds that a task may take in a child where no limit is given: a file that hangs must not hold up an archive."""
POLL_INTERVAL_S = 5.0
"""Seconds without an answer after which the size of the window is looked at again."""


def map_unordered(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int | None = None,
    cluster: str | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
) -> Iterator[tuple[Task, Result | InputError]]:
    """Yield (task, result) as results come, in no fixed order; a task that raised, crashed or hung gives an InputError.

    The work is done in child processes, each one task at a time: as many as there are cores, or workers. With workers=1
    and no time limit it is done in this process, where a crash ends the run. timeout is the longest that a task may
    take in a child, by default ten minutes; an executor and this process know no limit. cluster is the address of a
    Dask scheduler, whose workers then do it in children of theirs, or "local", which starts a Dask cluster of as many
    workers here. An executor given does the work as it does any: there a crash breaks the executor.

    Tasks are taken as they are needed, four a worker at most, so memory stays flat. function and tasks are pickled:
    the function is one that a module defines. Raises UsageError when it is not or dask.distributed is needed and not
    there, InputError when no worker can be started or reached, or the cluster is lost: then what was not yet
    answered never is.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}: give at least 1")
    if timeout is not None and not 0 < timeout < 1e6:
        raise UsageError(f"a time limit of {timeout} s is none: give more than 0 and less than a million seconds")
    if cluster is not None and executor is not None:
        raise UsageError("a cluster and an executor are two ways to do the same: give one of them")
    count = workers or available_cores()
    if executor is not None:
        yield from _in_executor(executor, function, tasks)
    elif cluster is not None:
        from mammovae.parallel.dask_cluster import connected

        with connected(cluster, WorkSpec.of(function, timeout or DEFAULT_TIMEOUT_S), count) as dask:
            yield from _through(dask.submit, dask.read, tasks, dask.window)
    elif count == 1 and timeout is None:
        for task in tasks:
            yield task, call_safely(function, task)
    else:
        with _children(WorkSpec.of(function, timeout or DEFAULT_TIMEOUT_S), count) as submit:
            yield from _through(submit, Future.result, tasks, lambda: 4 * count)


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _through(
    submit: Callable[[Task], Future[Any]],
    read: Callable[[Future[Any]], Any],
    tasks: Iterable[Task],
    window: Callable[[], int],
) -> Iterator[tuple[Task, Any]]:
    """Keep window() tasks under way, and yield each with what was read from its future."""
    remaining, futures = iter(tasks), dict[Future[Any], Task]()
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    while True:
        for task in islice(remaining, max(0, window() - len(futures))):
            future = submit(task)
            futures[future] = task
            future.add_done_callback(done.put)
        if not futures:
            return
        try:
            future = done.get(timeout=POLL_INTERVAL_S)
        except Empty:
            continue
        yield futures.pop(future), read(future)


@contextmanager
def _children(work: WorkSpec, count: int) -> Iterator[Callable[[Any], Future[Any]]]:
    """Give a function that submits a task to count children, which are killed at the end, finished or not."""
    children = [WorkerProcess(work) for _ in range(count)]
    idle: LifoQueue[WorkerProcess] = (
        LifoQueue()
    )  # The last one to answer is asked first: few tasks start few processes.
    for child in children:
        idle.put(child)

    def ask(task: Any) -> Any:
        payload = serialise(task)
        child = idle.get()
        try:
            return call_safely(pickle.loads, child.ask(payload))
        except WorkerStartError as error:
            raise InputError(f"{error}: use --workers 1 (workers=1)") from None
        finally:
            idle.put(child)

    threads = ThreadPoolExecutor(count, thread_name_prefix="mammovae")
    try:
        yield lambda task: threads.submit(ask, task)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.close()
        threads.shutdown()


def _in_executor(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result | InputError]]:
    pending: WeakSet[Future[Any]] = WeakSet()

    def submit(task: Task) -> Future[Any]:
        future = executor.submit(call_safely, function, task)
        pending.add(future)
        return future

    try:
        yield from _through(submit, Future.result, tasks, lambda: _WINDOW)
    except BrokenExecutor as error:
        raise InputError(f"the executor given broke, perhaps of a file that crashed its worker: {error}") from error
    finally:
        for future in pending:
            future.cancel()
