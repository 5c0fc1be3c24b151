"""Work in processes: every task answered once, and one that crashes costs only itself."""

import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mammovae.config import InputError
from mammovae.data import parallel


def square(number: int) -> int:
    if number == 3:
        raise InputError("three is refused")
    if number == 4:
        raise ZeroDivisionError("by a decoder")
    return number * number


def square_or_die(number: int) -> int:
    if number in (5, 11):
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_answered_and_an_error_is_its_own_answer(workers: int) -> None:
    results = dict(parallel.run(square, range(40), workers=workers))
    assert sorted(results) == list(range(40))
    assert all(results[number] == number**2 for number in results if number not in (3, 4))
    assert str(results[3]) == "three is refused"
    assert str(results[4]) == "unexpected ZeroDivisionError: by a decoder"


def test_any_executor_serves() -> None:
    with ThreadPoolExecutor(3) as executor:
        results = dict(parallel.run(square_or_die, range(5), executor=executor))
    assert results == {number: number**2 for number in range(5)}


def test_a_worker_that_dies_costs_only_its_own_task() -> None:
    results = dict(parallel.run(square_or_die, range(20), workers=2))
    assert sorted(results) == list(range(20))
    assert [number for number, result in results.items() if isinstance(result, InputError)] in ([5, 11], [11, 5])


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nfrom mammovae.data import parallel\nprint('ran')\n"
        "print(sum(result for _, result in parallel.run(math.isqrt, range(100), workers=2)))\n"
    )
    answer = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert answer.stdout.split() == ["ran", str(sum(math.isqrt(number) for number in range(100)))], answer.stderr
