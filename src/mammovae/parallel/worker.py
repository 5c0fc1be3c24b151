"""A process that does one task at a time, so that what crashes or hangs it is known exactly and costs only itself.

It is a plain Python process (python -m mammovae.parallel.worker), not one of multiprocessing's: the user's script is
not run again in it, and daemonic processes such as Dask's workers can start it. Parent and child talk over the child's
standard input and output in frames: a length in eight bytes, then a pickle. The child is sent its work and answers
None, or the error that keeps it from starting; then it is sent task after task and answers each with its result.
"""

import ctypes
import faulthandler
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from mammovae import version
from mammovae.config import InputError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

KILL_GRACE_S = 30.0
"""Seconds after the time limit at which a child that did not end itself (it was stopped, say) is killed from here."""
START_TIMEOUT_S = 120.0
"""How long a child may take to import what it needs."""
START_RETRY_DELAYS_S = (0.0, 0.5, 2.0)
"""Seconds before each attempt to start a child: a machine short of memory or processes for a moment is given it."""

_LENGTH = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerStartError(InputError):
    """No child process can be started on this machine."""


class WorkSpec(NamedTuple):
    """What a child is to do: a function's pickle, the time limit of a task in seconds, mammovae's version, a name."""

    function: bytes
    seconds: float | None
    version: str
    token: str

    @classmethod
    def of(cls, function: Callable[[Any], Any], seconds: float | None = None) -> "WorkSpec":
        """Pack a function; UsageError when other processes could not import it. Two packings are never equal."""
        inner: Any = function
        while isinstance(inner, partial):
            inner = inner.func
        if getattr(inner, "__module__", None) == "__main__":
            raise UsageError(f"{inner!r} is defined in the script that runs: put it in a module that can be imported")
        return cls(serialise(function), seconds, version.__version__, uuid.uuid4().hex)


def serialise(thing: Any) -> bytes:
    """Return the pickle of a function, task or result on its way between processes; UsageError when it has none."""
    try:
        return pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise UsageError(f"{thing!r} cannot be sent between processes: {error}") from None


def call_safely(function: Callable[[Task], Result], task: Task) -> Result | InputError:
    """Return the function's result, or as an InputError what it raised: one bad file among many stays one row."""
    try:
        return function(task)
    except InputError as error:
        return error
    except Exception as error:
        return InputError(f"unexpected {type(error).__name__}: {error}")


def environment() -> dict[str, str]:
    """Return what a Python process needs in its environment to import what this one can, and to compute on one core."""
    # The work uses all cores by processes: threads of the linear algebra in each would only get in each other's way.
    paths = [str(Path(path).absolute()) for path in sys.path]
    # A GPU would be shared by as many processes as there are cores, each with half a gigabyte of its memory.
    one_core = dict.fromkeys(_THREADS, "1") | {"CUDA_VISIBLE_DEVICES": ""}
    return os.environ | one_core | {"PYTHONPATH": os.pathsep.join(paths)}


class WorkerProcess:
    """A child process, started when it is first asked and again whenever it died.

    One thread at a time may ask; any may close. The child dies with this process, and on Linux with the thread that
    started it.
    """

    def __init__(self, work: WorkSpec) -> None:
        self.work = work
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, payload: bytes) -> bytes:
        """Return the pickle of a task's result, or of an InputError where the task raised, hung or crashed.

        Raises NoChildError when no child can be started, and what keeps the child from using the function:
        UsageError, or InputError for another version of mammovae.
        """
        killed_before = False
        while True:
            process = self._ready()
            begun = time.monotonic()
            answer = _exchange(process, payload, self.work.seconds)
            if answer is not None:
                return answer
            # The clock here started before the child's, so a child that its watchdog ended is always late.
            late = self.work.seconds is not None and time.monotonic() - begun >= self.work.seconds
            status = _ended(process)
            if status == -_SIGKILL and not late and not killed_before and not self._closed:
                # Killed from outside, for want of memory or by hand: that may not be this task's doing.
                killed_before = True
                continue
            return serialise(InputError(_why(status, self.work.seconds if late else None)))

    def close(self) -> None:
        """End the process, whatever it is doing, for good."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()
            _ended(process)

    def _ready(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is not None and process.poll() is None:
            return process
        for pause in START_RETRY_DELAYS_S:
            time.sleep(pause)
            process = self._start()
            answer = None if process is None else _exchange(process, serialise(tuple(self.work)), START_TIMEOUT_S)
            if process is None or answer is None:
                continue
            error = pickle.loads(answer)
            if error is None:
                return process
            process.kill()
            _ended(process)
            raise error
        raise WorkerStartError("worker processes cannot be started here")

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._process is not None:
                _ended(self._process)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "mammovae.parallel.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment(),
                    # Ctrl-C in a terminal goes to this process alone, which then kills its children.
                    start_new_session=True,
                )
            except OSError:
                return None
            return self._process


def _exchange(process: subprocess.Popen[bytes], payload: bytes, seconds: float | None = None) -> bytes | None:
    """Send a frame and return the one that answers it; None when the child died, or overstayed its limit by GRACE."""
    assert process.stdin is not None and process.stdout is not None
    try:
        _send(process.stdin, payload)
        if seconds is not None and hasattr(select, "poll"):
            waiting = select.poll()
            waiting.register(process.stdout, select.POLLIN)
            if not waiting.poll(1000 * (seconds + KILL_GRACE_S)):
                process.kill()
                return None
        return _receive(process.stdout)
    except (OSError, ValueError):  # ValueError: another thread has closed the child.
        return None


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a child that was killed or closed its pipe, and return its exit status as Popen has it.

    None when not even killing ended it: a process that waits for a dead disk is left to the operating system.
    """
    assert process.stdin is not None and process.stdout is not None
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()
    for _ in range(2):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=5)
        process.kill()
    return None


def _why(status: int | None, seconds: float | None) -> str:
    if seconds is not None:
        return (
            f"decoding took longer than {seconds:g} s: the file is damaged, its disk hangs, or the limit is too short"
        )
    known = {-number: number.name for number in signal.Signals}
    hint = ", or memory ran out" if status == -_SIGKILL else ""
    how = known.get(status or 0, f"exit status {status}")
    return f"decoding crashed the worker process ({how}): the file is damaged, or its codec is{hint}"


def _send(pipe: IO[bytes], payload: bytes) -> None:
    pipe.write(_LENGTH.pack(len(payload)))
    pipe.write(payload)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Return the next frame; None when the pipe ended before the frame did."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    payload = pipe.read(length)
    return payload if len(payload) == length else None


def _serve() -> None:
    """Be the child: answer tasks until the parent is gone."""
    _die_with_parent()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)  # Codecs in C print to standard output.
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    function, seconds, wanted, _ = pickle.loads(inbox.get())
    error: InputError | None = None
    if wanted != version.__version__:
        error = InputError(f"mammovae {version.__version__} is installed, not {wanted}: install the same everywhere")
    else:
        # Imports the function's module, which must not count as the first task's time.
        try:
            work = pickle.loads(function)
        except InputError as fault:
            error = fault
        except Exception as fault:
            error = UsageError(f"worker processes cannot import the function that they are to run: {fault}")
    _send(answers, serialise(error))
    while True:
        payload = inbox.get()
        if seconds is not None:
            # A watchdog in C: it needs neither the interpreter's lock nor a parent.
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        result = call_safely(lambda task: work(pickle.loads(task)), payload)
        answer = call_safely(serialise, result)
        faulthandler.cancel_dump_traceback_later()
        _send(answers, serialise(answer) if isinstance(answer, InputError) else answer)


def _listen(requests: IO[bytes], inbox: queue.SimpleQueue[bytes]) -> None:
    """Pass requests on, and end this process, whatever it is doing, when the parent ends."""
    while (payload := _receive(requests)) is not None:
        inbox.put(payload)
    os._exit(0)


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, even where a codec never lets go of the interpreter's lock."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)


if __name__ == "__main__":
    _serve()
