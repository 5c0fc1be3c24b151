"""Work in processes: every task answered once, and one that crashes or hangs affects no other."""

import ctypes
import ctypes.util
import importlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.parallel.processes import CountedTasks, gone, wait_until

from mammovae import version
from mammovae.config import InputError, UsageError
from mammovae.parallel import pool, worker

CRASHED = "decoding crashed the worker process"
TOO_LARGE = (
    "decoding needs more memory than the 2 GiB that one file may take: it is damaged, or far larger than a mammogram"
)
LATE = "decoding took longer than 1 s"


def square(number: int) -> int:
    if number == 3:
        raise InputError("three is refused")
    if number == 4:
        raise ZeroDivisionError("by a decoder")
    return number * number


def square_or_die(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 11:
        os._exit(0)
    return number * number


def hold_the_lock(seconds: int) -> None:
    """Sleep as a codec in C would that never lets go of the interpreter's lock."""
    ctypes.PyDLL(None).sleep(seconds)


def square_or_hang(number: int) -> int:
    if number == 5:
        time.sleep(600)
    if number == 11:
        hold_the_lock(600)
    if number == 45:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number * number


def killed_from_outside(number: int, *, folder: Path) -> int:
    """Do as a worker does that the kernel kills for want of memory: number 0 once, number 1 always."""
    seen = folder / str(number)
    if number == 1 or (number == 0 and not seen.exists()):
        seen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def announce_and_hang(number: int, *, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    hold_the_lock(600) if number % 2 else time.sleep(600)


def noisy(number: int) -> tuple[int, str]:
    os.write(1, b"a codec says hello\n")
    print("and so does the function")
    return number, os.environ["OMP_NUM_THREADS"]


def take_gibibytes(count: float) -> float:
    return float(np.zeros(int(count * 2**30), np.uint8)[-1])


_leaked: list[np.ndarray] = []


def leak_a_gibibyte(number: int) -> int:
    _leaked.append(np.zeros(2**30, np.uint8))
    return os.getpid()


def oom_score(number: int) -> str:
    return Path("/proc/self/oom_score_adj").read_text().strip()


def abort_in_cpp(number: int) -> int:
    """Throw std::bad_alloc, at number 1 std::bad_cast, which nobody catches, as in a codec called from C."""
    thrown = {0: "_ZSt17__throw_bad_allocv", 1: "_ZSt16__throw_bad_castv"}
    if number in thrown:
        ctypes.CDLL(ctypes.util.find_library("stdc++"))[thrown[number]]()
    return number


def process_id(number: int) -> int:
    return os.getpid()


def raise_it(error: Exception) -> None:
    raise error


def without_a_pickle(number: int) -> object:
    return threading.Lock() if number == 2 else number


def reasons(results: Mapping[Any, object]) -> dict[Any, str]:
    return {number: str(result) for number, result in results.items() if isinstance(result, InputError)}


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("workers", "timeout"), [(1, None), (1, 20), (2, None)])
def test_every_task_is_answered_and_an_error_is_its_own_answer(workers: int, timeout: float | None) -> None:
    answers = list(pool.map_unordered(square, range(40), workers=workers, timeout=timeout))
    results = dict(answers)
    assert sorted(number for number, _ in answers) == list(range(40))
    assert all(results[number] == number**2 for number in results if number not in (3, 4))
    assert str(results[3]) == "three is refused"
    reason = str(results[4])
    assert reason.startswith(
        "it cannot be used, and mammovae does not know why (ZeroDivisionError in test_pool.py, line "
    )
    assert reason.endswith("): please report this, and what kind of file it is")


def test_any_executor_serves_and_one_that_breaks_is_one_sentence() -> None:
    with ThreadPoolExecutor(3) as executor:
        results = dict(pool.map_unordered(square_or_die, range(5), executor=executor))
    assert results == {number: number**2 for number in range(5)}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as executor, pytest.raises(InputError, match="the given executor broke"):
        list(pool.map_unordered(square_or_die, range(6, 12), executor=executor))


def test_a_crash_affects_no_other_task() -> None:
    results = dict(pool.map_unordered(square_or_die, range(40), workers=2))
    errors = reasons(results)
    assert sorted(results) == list(range(40))
    assert sorted(errors) == [5, 11]
    assert errors[5].startswith(f"{CRASHED} (SIGSEGV)")
    assert errors[11].startswith(f"{CRASHED} (exit status 0)")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
def test_a_task_that_needs_too_much_memory_is_one_sentence_and_affects_no_other() -> None:
    results = dict(pool.map_unordered(take_gibibytes, [1.5, 3, 1], workers=1))
    assert reasons(results) == {3: TOO_LARGE}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
def test_what_earlier_tasks_left_behind_is_not_taken_from_the_next_ones() -> None:
    results = dict(pool.map_unordered(leak_a_gibibyte, range(6), workers=1))
    assert reasons(results) == {}
    assert len(set(results.values())) == 1, "not one process"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a limit on memory")
def test_a_limit_that_the_user_set_stays() -> None:
    """With 1 GiB for every process, what needs more is refused, though a file may take 2 GiB."""
    program = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))\n"
        "from mammovae.parallel import pool\nfrom tests.parallel.test_pool import take_gibibytes\n"
        "print(dict(pool.map_unordered(take_gibibytes, [0.25, 1.25], workers=1)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=worker.environment())
    assert "0.25: 0" in answer.stdout and f"1.25: InputError({TOO_LARGE!r})" in answer.stdout, answer


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="the kernel of Linux")
def test_where_memory_runs_out_the_kernel_takes_a_worker_first() -> None:
    assert dict(pool.map_unordered(oom_score, [0], workers=1)) == {0: "1000"}


@pytest.mark.skipif(ctypes.util.find_library("stdc++") is None, reason="needs the C++ library")
def test_a_codec_that_aborts_for_want_of_memory_is_told_from_one_that_crashes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    results = dict(pool.map_unordered(abort_in_cpp, range(4), workers=1))
    errors = reasons(results)
    assert sorted(errors) == [0, 1]
    assert errors[0] == TOO_LARGE
    assert errors[1].startswith(f"{CRASHED} (SIGABRT)")
    assert capfd.readouterr() == ("", ""), "what a codec prints is not for the user"


def test_one_worker_is_a_process_of_its_own() -> None:
    (pid,) = {result for _, result in pool.map_unordered(process_id, range(3), workers=1)}
    assert pid != os.getpid()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(5, "Input/output error", "scan.dcm"), "Input/output error: scan.dcm"),
        (OSError("cannot identify <_io.BytesIO>"), "it cannot be used, and mammovae does not know why (OSError in "),
        (OSError(12, "Cannot allocate memory"), TOO_LARGE),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4"), TOO_LARGE),
    ],
)
def test_what_the_system_says_is_passed_on_and_what_python_says_is_not(error: Exception, sentence: str) -> None:
    (result,) = dict(pool.map_unordered(raise_it, [error], workers=1)).values()
    assert str(result).startswith(sentence)


@pytest.mark.slow
def test_a_task_that_hangs_affects_no_other_task_either() -> None:
    begin = time.monotonic()
    results = dict(pool.map_unordered(square_or_hang, range(40), workers=2, timeout=1))
    assert time.monotonic() - begin < 10
    assert sorted(results) == list(range(40))
    assert sorted(reasons(results)) == [5, 11]
    assert all(text.startswith(LATE) for text in reasons(results).values())


@pytest.mark.slow
def test_a_worker_that_cannot_end_itself_is_killed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "KILL_GRACE_S", 0.5)
    results = dict(pool.map_unordered(square_or_hang, range(44, 48), workers=2, timeout=1))
    assert list(reasons(results)) == [45]
    assert reasons(results)[45].startswith(LATE)


def test_the_import_of_the_function_is_not_part_of_the_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import os, time\n\n\ndef double(number):\n    return 2 * number\n\n\n"
        "if 'SLOW' in os.environ:\n    time.sleep(1.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module("slow_to_import").double

    monkeypatch.setenv("SLOW", "1")
    assert dict(pool.map_unordered(double, range(4), workers=2, timeout=1)) == {0: 0, 1: 2, 2: 4, 3: 6}


@pytest.mark.slow
def test_a_task_killed_from_outside_is_tried_once_more(tmp_path: Path) -> None:
    results = dict(pool.map_unordered(partial(killed_from_outside, folder=tmp_path), range(6), workers=2))
    assert sorted(results) == list(range(6))
    assert results[0] == 0
    assert list(reasons(results)) == [1]
    assert "SIGKILL" in reasons(results)[1]
    assert "memory ran out" in reasons(results)[1]


def test_what_a_codec_prints_is_no_answer_and_it_computes_on_one_core() -> None:
    assert dict(pool.map_unordered(noisy, range(6), workers=2)) == {number: (number, "1") for number in range(6)}


def test_tasks_are_requested_as_they_are_needed_and_workers_end_with_the_run() -> None:
    tasks = CountedTasks()
    answers = pool.map_unordered(square, tasks, workers=2)
    for answered in range(1, 500):
        next(answers)
        assert tasks.requested - answered < 8
    ours = [process for process in psutil.Process().children() if "mammovae.parallel.worker" in process.cmdline()]
    assert len(ours) == 2
    assert isinstance(answers, Generator)
    answers.close()
    assert all(gone(process.pid) for process in ours)


@pytest.mark.slow
def test_a_run_that_is_interrupted_kills_what_hangs(tmp_path: Path) -> None:
    def tasks() -> Iterator[int]:
        yield from (0, 1)
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(pool.map_unordered(partial(announce_and_hang, folder=tmp_path), tasks(), workers=2))
    assert all(gone(int(path.name)) for path in tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_say_nothing(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    program = script(
        tmp_path,
        "import sys\nfrom functools import partial\nfrom pathlib import Path\n"
        "from mammovae.parallel import pool\nfrom tests.parallel.test_pool import announce_and_hang\n"
        "for _ in pool.map_unordered(partial(announce_and_hang, folder=Path(sys.argv[1])), range(9), workers=2):\n    pass\n",
    )
    process = subprocess.Popen(
        [sys.executable, program, folder],
        stderr=subprocess.PIPE,
        text=True,
        env=worker.environment(),
        start_new_session=True,
    )
    assert wait_until(lambda: len(list(folder.iterdir())) == 2)
    os.killpg(process.pid, number)  # as a terminal does at Ctrl-C
    _, stderr = process.communicate(timeout=10)
    assert stderr.count("Traceback") == (number == signal.SIGINT), stderr
    assert wait_until(lambda: all(gone(int(path.name)) for path in folder.iterdir()), 3)


def test_a_worker_ends_with_its_pipe_where_the_kernel_does_not_end_it() -> None:
    process = subprocess.Popen([sys.executable, "-m", "mammovae.parallel.worker"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 0


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        "import math\nfrom mammovae.parallel import pool\nprint('ran')\n"
        "print(sum(result for _, result in pool.map_unordered(math.isqrt, range(100), workers=2)))\n",
    )
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert answer.stdout.split() == ["ran", str(sum(math.isqrt(number) for number in range(100)))], answer.stderr


def test_what_cannot_be_sent_to_a_worker_is_one_sentence(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        "from mammovae.parallel import pool\ndef half(number):\n    return number / 2\n"
        "try:\n    list(pool.map_unordered(half, range(4), workers=2))\nexcept ValueError as error:\n    print(error)\n",
    )
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert "put it in a module that can be imported" in answer.stdout, answer.stderr
    with pytest.raises(UsageError, match="cannot be sent between processes"):
        list(pool.map_unordered(lambda number: number, range(4), workers=2))
    tasks_without_a_pickle: list[Any] = [threading.Lock()]
    with pytest.raises(UsageError, match="cannot be sent between processes"):
        list(pool.map_unordered(square, tasks_without_a_pickle, workers=2))
    results = dict(pool.map_unordered(without_a_pickle, range(6), workers=2))
    assert list(reasons(results)) == [2]
    assert "cannot be sent between processes" in reasons(results)[2]


def test_a_function_that_workers_cannot_import_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here_alone.py").write_text("def double(number):\n    return 2 * number\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        double = importlib.import_module("here_alone").double
    with pytest.raises(UsageError, match=r"cannot import the function .* No module named 'here_alone'"):
        list(pool.map_unordered(double, range(4), workers=2))


def test_where_no_worker_can_be_started_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "START_RETRY_DELAYS_S", (0, 0.01))
    loud = script(tmp_path, "#!/bin/sh\necho no room for Python >&2\nexit 1\n")
    loud.chmod(0o755)
    broken_ones = (("/bin/false", "without a word"), ("/nowhere/python", "No such file"), (str(loud), "no room for"))
    for broken, words in broken_ones:
        monkeypatch.setattr(sys, "executable", broken)
        with pytest.raises(InputError, match=rf"no worker process can be started here \(.*{words}.*\): free memory"):
            list(pool.map_unordered(square, range(4), workers=2))


def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "__version__", "0.0.1")
    begin = time.monotonic()
    for _ in range(5):  # the second worker is ended while it starts, at another moment each time
        with pytest.raises(InputError, match=r"is installed, not 0\.0\.1"):
            list(pool.map_unordered(square, range(4), workers=2))
    assert time.monotonic() - begin < worker.START_TIMEOUT_S


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout": 0}, {"cluster": "local", "executor": "any"}])
def test_wrong_use_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        next(pool.map_unordered(square, range(4), **wrong))
