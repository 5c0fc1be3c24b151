"""Tasks on a Dask cluster: one started here for the run ("local"), or one that is there, by its scheduler's address.

On a Dask worker a task runs in a child process of that worker's, one for each of its threads, so a file that crashes or
hangs costs itself and never the worker. Dask itself runs the tasks of a worker that died elsewhere.

Tasks go through Client.get_executor: its futures bring results over as they come, many at once, where Future.result
would ask the scheduler for one after the other.
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
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from mammovae import version
from mammovae.config import InputError, UsageError
from mammovae.parallel.worker import WorkerProcess, WorkSpec, call_safely, environment, serialise

if TYPE_CHECKING:
    from distributed import Client

CONNECT_TIMEOUT_S = 15.0
"""How long a scheduler may take to answer, and then a first worker to join it."""
NO_WORKER_TIMEOUT_S = 120.0
"""How long a cluster may be without any worker before the run gives up."""
SIZE_POLL_INTERVAL_S = 5.0
"""How often the cluster's size is asked for."""
_A_THREAD = 4
"""Tasks under way for each thread of the workers: one that runs, and others that are there when it is done."""
_LOGGERS = ("distributed", "distributed.client", "distributed.core", "tornado.application", "asyncio")
_QUIET = {
    "DASK_DISTRIBUTED__LOGGING": str(dict.fromkeys(_LOGGERS, "critical")),
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
}
"""Environment of a local cluster that keeps quiet, even when it is killed."""


class DaskExecutor:
    """What parallel.run needs of a cluster: submit a task, read a future's answer, say how many may be under way."""

    def __init__(self, client: "Client", address: str, work: WorkSpec) -> None:
        from distributed.scheduler import KilledWorker

        self._client, self._address, self._killed = client, address, KilledWorker
        self._executor = client.get_executor(pure=False)
        # Not scattered: what a task of Dask's made is made again when the worker that holds it dies.
        self._work = client.submit(WorkSpec._make, tuple(work), pure=False)
        self._token = work.token
        self._threads, self._read_at, self._alone_since = 0, -SIZE_POLL_INTERVAL_S, time.monotonic()

    def submit(self, task: Any) -> "Future[bytes]":
        """Put one task on its way to any worker."""
        payload = serialise(task)
        try:
            return self._executor.submit(do, self._work, payload)
        except Exception:
            raise self._lost() from None

    def read(self, future: "Future[bytes]") -> Any:
        """Return a task's result or its InputError. Raises InputError when it is the cluster that failed."""
        try:
            return call_safely(pickle.loads, future.result())
        except self._killed as error:
            deaths = error.allowed_failures + 1
            return InputError(f"{deaths} Dask workers died with this file: memory ran out, or they were taken away")
        except CancelledError:
            raise self._lost() from None
        except InputError as error:
            raise type(error)(f"the Dask cluster at {self._address} cannot do the work: {error}") from None
        except Exception as error:
            message = f"the Dask cluster at {self._address} failed: {type(error).__name__}: {error}"
            raise InputError(message) from error

    def window(self) -> int:
        """Return how many tasks to keep under way, from the workers that are there now."""
        now = time.monotonic()
        if now - self._read_at >= SIZE_POLL_INTERVAL_S:
            try:
                self._threads = sum(self._client.nthreads().values())
            except Exception:
                raise self._lost() from None
            self._read_at = now
            if self._threads:
                self._alone_since = now
            if now - self._alone_since >= NO_WORKER_TIMEOUT_S:
                raise InputError(
                    f"the Dask scheduler at {self._address} has had no worker for {NO_WORKER_TIMEOUT_S:g} s: start workers, "
                    "and the same command goes on from here"
                )
        return _A_THREAD * max(1, self._threads)

    def close(self) -> None:
        """Take back what is under way, and end the children that worked for this run."""
        if self._client.status != "running":
            return
        with suppress(Exception):
            self._executor.shutdown(wait=False)
            self._client.run(dismiss, self._token, on_error="ignore")

    def _lost(self) -> InputError:
        return InputError(
            f"the Dask scheduler at {self._address} was lost, or dropped the work: "
            "start it again, and the same command goes on from here"
        )


_children: dict[int, WorkerProcess] = {}
"""On a Dask worker: the child of each of its threads."""
_dismissed: set[str] = set()
"""On a Dask worker: the tokens of runs that are over."""


def do(work: WorkSpec, payload: bytes) -> bytes:
    """On a Dask worker: do one task in this thread's child, and return the pickle of its result or InputError."""
    if work.token in _dismissed:  # A task that was taken back, but not before it reached this worker.
        raise CancelledError
    thread = threading.get_ident()
    child = _children.get(thread)
    if child is None or child.work != work:
        if child is not None:
            child.close()
        child = _children[thread] = WorkerProcess(work)
    return child.ask(payload)


def dismiss(token: str) -> None:
    """On a Dask worker: end the children of one run, whatever they are doing."""
    _dismissed.add(token)
    for child in list(_children.values()):
        if child.work.token == token:
            # This is the worker's event loop, which must not wait for processes.
            threading.Thread(target=child.close, daemon=True).start()


@contextmanager
def connected(cluster: str, work: WorkSpec, workers: int) -> Iterator[DaskExecutor]:
    """Connect to a cluster, or start one of so many workers for "local"; both end with the context.

    Raises UsageError without dask.distributed, InputError when there is no scheduler, no worker or another mammovae.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("a cluster needs Dask, which is not installed: pip install 'mammovae[cluster]'") from None
    with _quiet(), local_cluster(workers) if cluster == "local" else nullcontext(cluster) as address:
        try:
            with ThreadPoolExecutor(1) as thread:  # not here, where an event loop may be running, as in a notebook
                thread.submit(asyncio.run, _knock(address)).result()
            client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except Exception as error:
            raise InputError(
                f"no Dask scheduler answers at {address!r}: check the address, which looks like tcp://HOST:8786 "
                f"({str(error) or type(error).__name__})"
            ) from None
        try:
            _check_workers(client, address)
            dask = DaskExecutor(client, address, work)
            try:
                yield dask
            finally:
                dask.close()
        finally:
            with suppress(TimeoutError):  # of a scheduler that was lost
                client.close()


async def _knock(address: str) -> None:
    """Wait for an answer, for which Client would wait for ever at a port of something else, the dashboard's say."""
    from distributed import Security
    from distributed.core import rpc

    secrets = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_TIMEOUT_S, connection_args=secrets) as there:
        identity: Any = await asyncio.wait_for(there.identity(), CONNECT_TIMEOUT_S + 1)
    if identity["type"] != "Scheduler":
        raise ValueError(f"it is the address of a {identity['type']}")


def _check_workers(client: "Client", address: str) -> None:
    """Refuse a cluster without workers, or where the scheduler or a worker has another mammovae or none."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise InputError(
            f"the Dask scheduler at {address} has no workers: start some (dask worker {address})"
        ) from None

    def installed() -> str:  # Within a function, so that it is sent as code: the module is what may be missing there.
        from mammovae import version

        return version.__version__

    versions: dict[str, Any] = dict(client.run(installed, on_error="return"))
    try:
        versions["the scheduler"] = client.run_on_scheduler(installed)
    except Exception as error:
        versions["the scheduler"] = error
    for place, there in versions.items():
        # A worker that died since is not one with another version; one that joins later is checked by its children.
        if there != version.__version__ and not isinstance(there, OSError):
            raise InputError(
                f"mammovae {version.__version__} is needed all over the Dask cluster at {address}, "
                f"but on {place} it is {there}: install the same version there"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs of connections that close off the user's screen."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def local_cluster(workers: int) -> Iterator[str]:
    """Start a Dask cluster on this machine, and give its scheduler's address.

    It lives in a process of its own, because Dask would run the user's script again in each worker, and ends when
    this process does.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mammovae.parallel.dask_cluster", str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment() | _QUIET,
        text=True,
        start_new_session=True,
    )
    with process:
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


def _serve(workers: int) -> None:
    """Be the local cluster until the process that started it closes standard input, or dies."""
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
    _serve(int(sys.argv[1]))
