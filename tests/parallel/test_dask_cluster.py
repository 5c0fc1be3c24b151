"""The same work on a Dask cluster: the same answers, whatever dies on the way."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.parallel.processes import CountedTasks, gone, wait_until

from mammovae import version
from mammovae.config import InputError, UsageError
from mammovae.parallel import dask_cluster, pool, worker

pytestmark = pytest.mark.slow


def awkward(number: int) -> int:
    """Square, but refuse 3, crash at 5 and hang at 11."""
    if number == 3:
        raise InputError("three is refused")
    if number == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 11:
        time.sleep(600)
    return number * number


def slow_square(number: int) -> tuple[int, int]:
    """Square, and say which Dask worker had the task."""
    time.sleep(0.05)
    return number * number, os.getppid()


def needs_memory(number: int) -> float:
    return float(np.zeros(number * 2**30, np.uint8)[-1])


def kill_the_worker(number: int) -> int:
    if number == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    return number


def announce_and_hang(number: int, *, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two workers that is running already."""
    with dask_cluster.local_cluster(2) as address:
        yield address


def test_errors_crashes_and_hangs_affect_no_other_task(address: str) -> None:
    results = dict(pool.map_unordered(awkward, range(40), cluster=address, timeout=1))
    assert sorted(results) == list(range(40))
    errors = {number: str(result) for number, result in results.items() if isinstance(result, InputError)}
    assert sorted(errors) == [3, 5, 11]
    assert errors[3] == "three is refused"
    assert errors[5].startswith("decoding crashed the worker process (SIGSEGV)")
    assert errors[11].startswith("decoding took longer than 1 s")
    assert all(results[number] == number**2 for number in results if number not in errors)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
def test_a_task_has_the_same_limit_of_memory_there(address: str) -> None:
    results = dict(pool.map_unordered(needs_memory, [1, 3], cluster=address))
    assert results[1] == 0 and str(results[3]).startswith("decoding needs more memory than the 2 GiB")


def test_a_worker_killed_half_way_changes_no_answer(address: str) -> None:
    results, workers = {}, set()
    for number, result in pool.map_unordered(slow_square, range(80), cluster=address):
        assert not isinstance(result, InputError)
        results[number], worker = result
        if len(results) == 20:
            os.kill(worker, signal.SIGKILL)
        workers.add(worker)
    assert results == {number: number**2 for number in range(80)}
    assert len(workers) >= 2


def test_a_run_that_is_left_ends_its_work_on_the_cluster_and_its_worker_processes_there(
    address: str, tmp_path: Path
) -> None:
    def tasks() -> Iterator[int]:
        yield from range(6)
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.map_unordered(partial(announce_and_hang, folder=tmp_path), tasks(), cluster=address))
    assert wait_until(lambda: all(gone(int(path.name)) for path in tmp_path.iterdir()))
    # The workers are free again.
    assert len(list(pool.map_unordered(awkward, [1, 2], cluster=address))) == 2


def test_another_version_on_the_workers_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "__version__", "9.9.9")
    with pytest.raises(
        InputError, match=r"mammovae 9\.9\.9 is needed all over the Dask cluster at tcp://.* but on tcp"
    ):
        list(pool.map_unordered(awkward, [1], cluster=address))


def test_what_the_workers_cannot_import_ends_the_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def double(number):\n    return 2 * number\n")
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module("only_here").double

    with pytest.raises(UsageError, match=r"the Dask cluster at tcp://.* cannot do the work: .*'only_here'"):
        list(pool.map_unordered(double, range(4), cluster=address))


def test_a_file_with_which_every_worker_dies_is_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    results = dict(pool.map_unordered(kill_the_worker, [0], cluster="local", workers=2))
    assert str(results[0]).startswith("2 Dask workers died with this file")


def test_workers_added_later_are_used_and_a_lost_scheduler_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "SIZE_POLL_INTERVAL_S", 0.2)
    tasks = CountedTasks()
    with dask_cluster.local_cluster(1) as address, worker_for(address):
        workers, most, killed = set(), 0, False
        with pytest.raises(InputError, match=f"the Dask scheduler at {address} was lost"):
            for answered, (_, result) in enumerate(pool.map_unordered(slow_square, tasks, cluster=address), 1):
                assert not isinstance(result, InputError)
                workers.add(result[1])
                most = max(most, tasks.requested - answered)
                assert answered < 1000
                if len(workers) == 2 and most == 7 and not killed:  # four a worker, one of them just answered
                    killed = True
                    ours = psutil.Process().children()
                    (scheduler,) = (
                        one for one in ours if one.cmdline()[-2:] == ["mammovae.parallel.dask_cluster", "1"]
                    )
                    scheduler.kill()


def test_a_scheduler_without_workers_does_not_keep_the_run_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(dask_cluster, "SIZE_POLL_INTERVAL_S", 0.2)
    monkeypatch.setattr(dask_cluster, "NO_WORKER_TIMEOUT_S", 1)
    monkeypatch.setattr(pool, "POLL_INTERVAL_S", 0.2)
    with dask_cluster.local_cluster(0) as address:
        with pytest.raises(InputError, match=f"the Dask scheduler at {address} has no workers"):
            list(pool.map_unordered(slow_square, range(4), cluster=address))
        monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 15)
        with worker_for(address) as worker, pytest.raises(InputError, match=f"at {address} has had no worker for 1 s"):
            for _ in pool.map_unordered(slow_square, range(1000), cluster=address):
                worker.kill()


@contextmanager
def worker_for(address: str) -> Iterator[subprocess.Popen]:
    """Start a Dask worker as one would on another machine."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads=1", "--no-nanny"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_where_no_scheduler_answers_the_run_says_so_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as the dashboard is to Dask's own language
        for address in ("tcp://127.0.0.1:9", "nonsense://here", "", f"tcp://127.0.0.1:{silent.getsockname()[1]}"):
            with pytest.raises(InputError, match=f"no Dask scheduler answers at '{address}'"):
                list(pool.map_unordered(awkward, range(4), cluster=address))
    assert capfd.readouterr() == ("", "")


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'mammovae\[cluster\]'"):
        list(pool.map_unordered(awkward, range(4), cluster="local"))


def test_a_local_cluster_needs_no_main_guard_prints_nothing_and_ends_with_its_script(tmp_path: Path) -> None:
    program = tmp_path / "script.py"
    program.write_text(
        "import os, psutil, signal\nfrom mammovae.parallel import pool\n"
        "from tests.parallel.test_dask_cluster import slow_square\n"
        "print('ran')\n"
        "def work(start):\n"
        "    tasks = range(start, start + 100)\n"
        "    return pool.map_unordered(slow_square, tasks, cluster='local', workers=2)\n"
        "try:\n"
        "    for number, (square, worker) in work(0):\n"
        "        print(number, square, worker)\n"
        "        psutil.Process().children()[0].kill()\n"
        "except ValueError as error:\n"
        "    print(0, 'lost' in str(error), worker)\n"
        "for number, (square, worker) in work(100):\n"
        "    print(number, square, worker, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    answer = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, env=worker.environment()
    )
    assert answer.stderr == ""
    first, *lines = answer.stdout.splitlines()
    rows = [line.split() for line in lines]
    assert first == "ran"
    assert all(result == "True" or int(result) == int(number) ** 2 for number, result, _ in rows)
    assert any(result == "True" for _, result, _ in rows)
    assert int(rows[-1][0]) >= 100
    assert wait_until(lambda: all(gone(int(worker)) for *_, worker in rows))
