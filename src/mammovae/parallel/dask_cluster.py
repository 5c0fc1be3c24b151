"""Tasks on a Dask cluster: one started here for the run ("local"), or a running one, by its scheduler's address.

On a Dask worker a task runs in a worker process, one for each thread, so a file that crashes or hangs never affects the
Dask worker. Dask itself reruns elsewhere the tasks of a Dask worker that died. Tasks go through Client.get_executor:
its futures fetch results as they come, many at once, where Future.result would ask the scheduler for one at a time.
"""

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mammovae import version
from mammovae.config import InputError, UsageError
from mammovae.parallel.worker import WorkerProcess, WorkSpec, call_safely, environment, serialise

if TYPE_CHECKING:
    from distributed import Client

CONNECT_TIMEOUT_S = 15.0  # how long a scheduler may take to answer, and then a first worker to join it
NO_WORKER_TIMEOUT_S = 120.0  # how long a cluster may be without any worker before the run gives up
SIZE_POLL_INTERVAL_S = 5.0  # how often the cluster's size is asked for
_LOGGERS = ("distributed", "distributed.client", "distributed.core", "tornado.application", "asyncio")
_SILENT = {
    "DASK_DISTRIBUTED__LOGGING": str(dict.fromkeys(_LOGGERS, "critical")),
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
"""Environment of a local cluster that prints nothing, even when it is killed."""


class DaskExecutor:
    """A cluster as the pool uses it: submit a task, read a future's answer, count the threads that work."""

    def __init__(self, client: "Client", address: str, work: WorkSpec) -> None:
        from distributed.scheduler import KilledWorker

        self._client, self._address, self._token, self._killed_worker = client, address, work.token, KilledWorker
        self._executor = client.get_executor(pure=False)
        # Not scattered: what is the result of a Dask task is computed again when the worker that holds it dies.
        self._work = client.submit(WorkSpec._make, tuple(work), pure=False)
        self._threads, self._polled_at, self._last_seen_at = 0, -SIZE_POLL_INTERVAL_S, time.monotonic()

    def submit(self, task: Any) -> "Future[bytes]":
        """Send one task to any worker."""
        payload = serialise(task)
        try:
            return self._executor.submit(run_on_dask_worker, self._work, payload)
        except Exception:
            raise self._lost() from None

    def read(self, future: "Future[bytes]") -> Any:
        """Return a task's result or its InputError; raise InputError when it is the cluster that failed."""
        try:
            return call_safely(pickle.loads, future.result())
        except self._killed_worker as error:
            deaths = error.allowed_failures + 1
            return InputError(f"{deaths} Dask workers died with this file: memory ran out, or they were taken away")
        except CancelledError:
            raise self._lost() from None
        except InputError as error:
            raise type(error)(f"the Dask cluster at {self._address} cannot do the work: {error}") from None
        except Exception as error:
            raise InputError(f"the Dask cluster at {self._address} failed: {type(error).__name__}: {error}") from error

    def count_threads(self) -> int:
        """Return how many threads the current workers have; InputError when there was none for too long."""
        now = time.monotonic()
        if now - self._polled_at < SIZE_POLL_INTERVAL_S:
            return self._threads
        try:
            self._threads = sum(self._client.nthreads().values())
        except Exception:
            raise self._lost() from None
        self._polled_at = now
        if self._threads:
            self._last_seen_at = now
        if now - self._last_seen_at >= NO_WORKER_TIMEOUT_S:
            raise self._lost(f"has had no worker for {NO_WORKER_TIMEOUT_S:g} s: start workers")
        return self._threads

    def close(self) -> None:
        """Cancel what was submitted, and end the worker processes of this run."""
        if self._client.status == "running":
            with suppress(Exception):
                self._executor.shutdown(wait=False)
                self._client.run(end_run_on_dask_worker, self._token, on_error="ignore")

    def _lost(self, what: str = "was lost, or dropped the work: start it again") -> InputError:
        return InputError(f"the Dask scheduler at {self._address} {what}, and the same command resumes")


# On a Dask worker: the worker process of each of its threads, and the tokens of runs that are over.
_processes: dict[int, WorkerProcess] = {}
_ended_runs: set[str] = set()


def run_on_dask_worker(work: WorkSpec, payload: bytes) -> bytes:
    """Run one task in this thread's worker process, and return the pickle of its result or InputError."""
    if work.token in _ended_runs:  # A task that was cancelled, but not before it reached this worker.
        raise CancelledError
    thread = threading.get_ident()
    if thread in _processes and _processes[thread].work != work:
        _processes.pop(thread).close()
    return _processes.setdefault(thread, WorkerProcess(work)).run_task(payload)


def end_run_on_dask_worker(token: str) -> None:
    """End the worker processes of one run, whatever they are doing."""
    _ended_runs.add(token)
    for process in list(_processes.values()):
        if process.work.token == token:
            # The Dask worker's event loop, which runs this, must not wait for processes.
            threading.Thread(target=process.close, daemon=True).start()


@contextmanager
def connect(cluster: str, work: WorkSpec, workers: int) -> Iterator[DaskExecutor]:
    """Connect to a cluster, or start one of so many workers for "local"; both end with the context.

    Raises UsageError without dask.distributed, InputError when there is no scheduler, no worker or another mammovae.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("a cluster needs Dask, which is not installed: pip install 'mammovae[cluster]'") from None
    with ExitStack() as stack:
        for logger in map(logging.getLogger, _LOGGERS):  # Dask's messages about closing connections
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        address = stack.enter_context(local_cluster(workers)) if cluster == "local" else cluster
        try:
            with ThreadPoolExecutor(1) as thread:  # An event loop may be running in this one, as in a notebook.
                thread.submit(asyncio.run, _check_scheduler(address)).result()
            client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except Exception as error:
            advice = f"check the address, which looks like tcp://HOST:8786 ({str(error) or type(error).__name__})"
            raise InputError(f"no Dask scheduler answers at {address!r}: {advice}") from None
        try:
            _check_workers(client, address)
            with closing(DaskExecutor(client, address, work)) as dask:
                yield dask
        finally:
            with suppress(TimeoutError):  # of a scheduler that was lost
                client.close()


async def _check_scheduler(address: str) -> None:
    """Wait for a scheduler's answer; Client itself would wait forever at another port, such as the dashboard's."""
    from distributed import Security
    from distributed.core import rpc

    secrets = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_TIMEOUT_S, connection_args=secrets) as remote:
        identity: Any = await asyncio.wait_for(remote.identity(), CONNECT_TIMEOUT_S + 1)
    if identity["type"] != "Scheduler":
        raise ValueError(f"it is the address of a {identity['type']}")


def _check_workers(client: "Client", address: str) -> None:
    """Refuse a cluster without workers, or where the scheduler or a worker has another mammovae or none."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except TimeoutError:
        missing = f"the Dask scheduler at {address} has no workers"
        raise InputError(f"{missing}: start some (dask worker {address})") from None

    def installed() -> str:  # A local function is sent as code: a module might be missing on the worker.
        from mammovae import version

        return version.__version__

    versions: dict[str, Any] = dict(client.run(installed, on_error="return"))
    try:
        versions["the scheduler"] = client.run_on_scheduler(installed)
    except Exception as error:
        versions["the scheduler"] = error
    for place, found in versions.items():
        # An OSError is a worker that died since; one that joins later is checked by its own worker processes.
        if found != version.__version__ and not isinstance(found, OSError):
            needed = f"mammovae {version.__version__} is needed all over the Dask cluster at {address}"
            raise InputError(f"{needed}, but on {place} it is {found}: install the same version there")


@contextmanager
def local_cluster(workers: int) -> Iterator[str]:
    """Start a Dask cluster on this machine, which ends when this process does, and give its scheduler's address."""
    # In a process of its own, because Dask would run the user's script again in each worker.
    command = [sys.executable, "-P", "-m", "mammovae.parallel.dask_cluster", str(workers)]
    streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment() | _SILENT, start_new_session=True, **streams) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if "://" not in address:
                raise InputError(f"no Dask cluster can be started here: {address or 'its process died'}")
            yield address
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _run_local_cluster(workers: int) -> None:
    """Run a cluster until the process that started this one closes standard input, or dies."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from distributed import LocalCluster

    try:
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=answers)
        return
    print(cluster.scheduler_address, file=answers, flush=True)
    sys.stdin.read()
    cluster.close(timeout=5)


if __name__ == "__main__":
    _run_local_cluster(int(sys.argv[1]))
