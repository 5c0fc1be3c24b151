"""Run one function over many inputs, in child processes or on a Dask cluster; none that crashes affects another."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any

from mammovae.config import InputError, UsageError
from mammovae.parallel.worker import Result, Task, WorkerProcess, WorkSpec, call_safely, serialise

DEFAULT_TIMEOUT_S = 600.0  # how long a task may take in a worker process where no limit is given
POLL_INTERVAL_S = 5.0  # time without an answer after which more tasks are submitted if workers have joined
_TASKS_PER_WORKER = 4  # tasks submitted for each worker: one that runs, and others that are ready when it is done
_EXECUTOR_TASKS = 64  # tasks submitted to a given executor, whose size is not known


Run = Callable[[Iterable[Task]], Iterator[tuple[Task, Result | InputError]]]


def count_cores() -> int:
    """Count the cores that this process may use, which may be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

    Tasks are taken as they are needed, so memory stays flat. For the parameters and errors see `open_pool`.
    """
    with open_pool(function, workers=workers, cluster=cluster, executor=executor, timeout=timeout) as run:
        yield from run(tasks)


@contextmanager
def open_pool(
    function: Callable[[Task], Result],
    *,
    workers: int | None = None,
    cluster: str | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
) -> Iterator[Run]:
    """Give what map_unordered does, to be called for several lots of tasks, one after the other, by the same workers.

    Function and tasks are pickled: the function must belong to a module that can be imported. A process gives each task
    a limit of time and, on Linux, of memory; in an executor there is neither, and a crash ends the run. Nothing is
    started before there is a task.

    workers is the number of child processes, by default one for each core; cluster the address of a Dask scheduler, or
    "local", which starts one with as many workers here; an executor takes the place of both;
    timeout is the seconds that a task may take, by default 600.

    Raises UsageError when the function cannot be sent to other processes or Dask is not installed, and InputError when
    no worker can be started or reached, or the cluster is lost: open tasks are then never answered.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}: give at least 1")
    if timeout is not None and not 0 < timeout < 1e6:
        raise UsageError(f"a time limit of {timeout} s is none: give more than 0 and less than a million seconds")
    if cluster is not None and executor is not None:
        raise UsageError("a cluster and an executor are two ways to do the same: give one of them")
    count = workers or count_cores()
    with ExitStack() as stack:

        @cache
        def start() -> Run:
            if executor is not None:
                return partial(_run_in_executor, executor, function)
            work = WorkSpec.of(function, timeout or DEFAULT_TIMEOUT_S)
            if cluster is None:
                submit = stack.enter_context(_worker_processes(work, count))
                return lambda tasks: _run(submit, Future.result, tasks, lambda: _TASKS_PER_WORKER * count, {})
            from mammovae.parallel.dask_cluster import connect

            dask = stack.enter_context(connect(cluster, work, count))
            return lambda tasks: _run(
                dask.submit, dask.read, tasks, lambda: _TASKS_PER_WORKER * max(1, dask.count_threads()), {}
            )

        def run(tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | InputError]]:
            remaining = iter(tasks)
            for first in islice(remaining, 1):
                yield from start()(chain([first], remaining))

        yield run


def _run(
    submit: Callable[[Task], Future[Any]],
    read: Callable[[Future[Any]], Any],
    tasks: Iterable[Task],
    most_submitted: Callable[[], int],
    task_of: dict[Future[Any], Task],
) -> Iterator[tuple[Task, Any]]:
    """Keep at most most_submitted() tasks in task_of, and yield each with what was read from its future."""
    remaining, done = iter(tasks), SimpleQueue[Future[Any]]()
    while True:
        for task in islice(remaining, max(0, most_submitted() - len(task_of))):
            future = submit(task)
            task_of[future] = task
            future.add_done_callback(done.put)
        if not task_of:
            return
        try:
            future = done.get(timeout=POLL_INTERVAL_S)
        except Empty:
            continue
        yield task_of.pop(future), read(future)


@contextmanager
def _worker_processes(work: WorkSpec, count: int) -> Iterator[Callable[[Any], Future[Any]]]:
    """Give a function that submits a task to one of count worker processes, which are killed at the end."""
    workers = [WorkerProcess(work) for _ in range(count)]
    idle = list(workers)  # The last one used is the next: few tasks start few processes.

    def run(task: Any) -> Any:
        payload, worker = serialise(task), idle.pop()
        try:
            return call_safely(pickle.loads, worker.run_task(payload))
        finally:
            idle.append(worker)

    threads = ThreadPoolExecutor(count, thread_name_prefix="mammovae")
    try:
        yield lambda task: threads.submit(run, task)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
        threads.shutdown()


def _run_in_executor(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result | InputError]]:
    task_of: dict[Future[Any], Task] = {}
    submit = partial(executor.submit, call_safely, function)
    try:
        yield from _run(submit, Future.result, tasks, lambda: _EXECUTOR_TASKS, task_of)
    except BrokenExecutor as error:
        raise InputError(f"the given executor broke, perhaps because a file crashed its worker: {error}") from error
    finally:
        for future in task_of:
            future.cancel()
