"""A worker process that does one task at a time: a task that crashes or hangs it is known exactly and affects no other.

It is a plain Python process (python -m mammovae.parallel.worker), not one of multiprocessing's: the user's script is
not run again in it, and daemonic processes such as Dask's workers can start it. Frames go through its standard input
and output: a length in eight bytes, then a pickle. The first frame is a WorkSpec, answered by None or by the error that
keeps the worker from starting; every other one is a task, answered by its result.
"""

import ctypes
import errno
import faulthandler
import os
import pickle
import queue
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
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

KILL_GRACE_S = 30.0  # after the limit and this, a worker that did not end itself (it was stopped, say) is killed
START_TIMEOUT_S = 120.0  # how long a worker may take to import what it needs
_CLOSE_TIMEOUT_S = 10.0  # for which a killed process that waits for a dead disk is waited for
START_RETRY_DELAYS_S = (0.0, 0.5, 2.0)  # before each attempt to start: a machine may lack memory for a moment
MEMORY_LIMIT_BYTES = 2 * 2**30
"""Memory that one task may take, beyond what its process has when it begins."""

_OUT_OF_MEMORY = (
    f"decoding needs more memory than the {MEMORY_LIMIT_BYTES // 2**30} GiB that one file may take: "
    "it is damaged, or far larger than a mammogram"
)
_MEMORY_WORDS = re.compile("bad_alloc|MemoryError|allocate memory")  # of C++, Python, and C or PyTorch
_LAST_WORDS_BYTES = 2000
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables that say how many threads linear algebra takes."""


class WorkSpec(NamedTuple):
    """A worker's job: a pickled function, a task's time limit, the version of mammovae needed, and a unique token."""

    function: bytes
    timeout_s: float | None
    version: str
    token: str

    @classmethod
    def of(cls, function: Callable[[Any], Any], timeout_s: float | None = None) -> "WorkSpec":
        """Serialise a function; UsageError when other processes could not import it. No two specs are equal."""
        inner: Any = function
        while isinstance(inner, partial):
            inner = inner.func
        if getattr(inner, "__module__", None) == "__main__":
            raise UsageError(f"{inner!r} is defined in the script that runs: put it in a module that can be imported")
        return cls(serialise(function), timeout_s, version.__version__, uuid.uuid4().hex)


def serialise(value: Any) -> bytes:
    """Return the pickle of a function, task or result; UsageError when it has none."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise UsageError(f"{value!r} cannot be sent between processes: {error}") from None


def call_safely(function: Callable[[Task], Result], task: Task) -> Result | InputError:
    """Return the function's result, or whatever it raised as an InputError: one bad file stays one row."""
    try:
        return function(task)
    except InputError as error:
        return error
    except Exception as error:
        return InputError(_explain(error))


def _explain(error: Exception) -> str:
    """Return a sentence for users on an error that nobody foresaw; Python's own words would tell them nothing."""
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or code == errno.ENOMEM or _MEMORY_WORDS.search(str(error)):
        return _OUT_OF_MEMORY
    if isinstance(error, OSError) and code is not None:
        return f"{error.strerror}: {error.filename or 'check the disk'}"
    frames = traceback.extract_tb(error.__traceback__)
    room = Path(__file__).parent
    # The last place in mammovae's own code, but not in this room, which only calls.
    ours = [
        frame for frame in frames if room.parent in Path(frame.filename).parents and room != Path(frame.filename).parent
    ]
    last = (ours or frames)[-1]
    place = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    return (
        f"it cannot be used, and mammovae does not know why ({place}): please report this, and what kind of file it is"
    )


def environment() -> dict[str, str]:
    """Return the environment of a process that imports what this one can and computes on one core."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    # All cores are used by processes: threads of linear algebra would compete with them, and each process
    # on a shared GPU would take half a gigabyte of its memory.
    one_core = dict.fromkeys(THREAD_COUNTS, "1") | {"CUDA_VISIBLE_DEVICES": ""}
    return os.environ | one_core | {"PYTHONPATH": os.pathsep.join(paths)}


class WorkerProcess:
    """A worker process, started for its first task and again whenever it died.

    It dies with this process, on Linux even with the thread that started it. One thread at a time may run tasks.
    """

    def __init__(self, work: WorkSpec) -> None:
        self.work = work
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: _LastWords | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._busy = threading.Lock()  # held while a thread waits for an answer

    def run_task(self, payload: bytes) -> bytes:
        """Return the pickle of a task's result, or of an InputError where the task raised, hung or crashed.

        Raises InputError when no process can be started or it has another version of mammovae, and UsageError when it
        cannot import the function.
        """
        with self._busy:
            return self._run_task(payload, may_retry=True)

    def _run_task(self, payload: bytes, *, may_retry: bool) -> bytes:
        process = self._started_process()
        begin = time.monotonic()
        answer = _exchange(process, payload, self.work.timeout_s)
        if answer is not None:
            return answer
        # The clock here started before the worker's, so a worker that its watchdog ended is always late.
        is_late = self.work.timeout_s is not None and time.monotonic() - begin >= self.work.timeout_s
        status = _exit_status(process)
        if status == -signal.SIGKILL and may_retry and not is_late and not self._closed:
            # Killed from outside, for want of memory or by hand: the task may not be the cause.
            return self._run_task(payload, may_retry=False)
        if not is_late and _MEMORY_WORDS.search(self._last_words()):
            return serialise(InputError(_OUT_OF_MEMORY))
        return serialise(InputError(_describe_failure(status, self.work.timeout_s if is_late else None)))

    def close(self) -> None:
        """End the process for good, whatever it is doing."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is None:
            return
        process.kill()
        # Its pipes are closed by the thread that waits for an answer, if there is one: another thread would take them
        # away under its hands, and it would wait for whatever gets their numbers next.
        if self._busy.acquire(timeout=_CLOSE_TIMEOUT_S):
            try:
                _exit_status(process)
            finally:
                self._busy.release()

    def _started_process(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        why = ""
        for delay in START_RETRY_DELAYS_S:
            time.sleep(delay)
            try:
                process = self._start()
            except OSError as error:
                why = error.strerror
                continue
            answer = _exchange(process, serialise(tuple(self.work)), START_TIMEOUT_S)
            if answer is not None:
                if (error := pickle.loads(answer)) is None:
                    return process
                process.kill()
                _exit_status(process)
                raise error
            why = f"{sys.executable} ended at once, {self._last_words().rpartition(chr(10))[2] or 'without a word'}"
        raise InputError(f"no worker process can be started here ({why}): free memory, or allow more processes")

    def _last_words(self) -> str:
        return "" if self._messages is None else self._messages.text()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "mammovae.parallel.worker"]
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._process is not None:
                _exit_status(self._process)
            # In a session of its own, because Ctrl-C is for this process, which then kills its workers.
            pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            self._process = subprocess.Popen(command, env=environment(), start_new_session=True, **pipes)
            self._messages = _LastWords(self._process.stderr)
            return self._process


class _LastWords(threading.Thread):
    """Reads what a worker and its codecs print, so that no user sees it, and keeps the end: why the worker died."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert pipe is not None
        self._pipe, self._end = pipe, b""
        self.start()

    def run(self) -> None:
        """Read until the worker is gone."""
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._end = (self._end + chunk)[-_LAST_WORDS_BYTES:]

    def text(self) -> str:
        """Return the end of what was printed, once the worker has died."""
        self.join(timeout=1)
        return self._end.decode(errors="replace").strip()


def _exchange(process: subprocess.Popen[bytes], payload: bytes, timeout_s: float | None) -> bytes | None:
    """Send a frame and return its answer; None when the worker died, or exceeded its limit by KILL_GRACE_S."""
    assert process.stdin is not None and process.stdout is not None
    try:
        _send(process.stdin, payload)
        if timeout_s is not None:
            poll = select.poll()
            poll.register(process.stdout, select.POLLIN)
            if not poll.poll(1000 * (timeout_s + KILL_GRACE_S)):
                process.kill()
                return None
        return _receive(process.stdout)
    except OSError:
        return None


def _exit_status(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a worker that was killed or closed its pipe, and return its exit status as Popen has it.

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


def _describe_failure(status: int | None, timeout_s: float | None) -> str:
    if timeout_s is not None:
        limit = f"decoding took longer than {timeout_s:g} s"
        return f"{limit}: the file is damaged, its disk hangs, or the limit is too short"
    cause = {-number: number.name for number in signal.Signals}.get(status or 0, f"exit status {status}")
    hint = ", or memory ran out" if status == -signal.SIGKILL else ""
    return f"decoding crashed the worker process ({cause}): the file is damaged, or its codec is{hint}"


def _send(pipe: IO[bytes], payload: bytes) -> None:
    pipe.writelines((len(payload).to_bytes(8, "little"), payload))
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Return the next frame; None when the pipe ended before the frame did."""
    header = pipe.read(8)
    payload = pipe.read(int.from_bytes(header, "little"))
    return payload if len(header) == 8 and len(payload) == int.from_bytes(header, "little") else None


def _run_worker() -> None:
    """Answer tasks until the process that started this one is gone."""
    # The kernel kills this process with its parent, even where a codec never releases the interpreter's lock.
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
        with suppress(OSError):  # Where memory runs out, the kernel takes this process and not the user's session.
            Path("/proc/self/oom_score_adj").write_text("1000")
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null_device = os.open(os.devnull, os.O_RDWR)
    os.dup2(null_device, 0)
    os.dup2(2, 1)  # Codecs in C print to standard output.
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive_requests, args=(requests, inbox), daemon=True).start()
    pickled_function, timeout_s, required_version, _ = pickle.loads(inbox.get())
    try:
        if required_version != version.__version__:
            both = f"mammovae {version.__version__} is installed, not {required_version}"
            raise InputError(f"{both}: install the same everywhere")
        function = pickle.loads(pickled_function)  # Its module's import must not count as the first task's time.
        _send(answers, serialise(None))
    except InputError as error:
        return _send(answers, serialise(error))
    except Exception as error:
        reason = f"worker processes cannot import the function that they are to run: {error}"
        return _send(answers, serialise(UsageError(reason)))
    while True:
        payload = inbox.get()
        _limit_memory(soft_limit)
        if timeout_s is not None:
            # A watchdog in C: it needs neither the interpreter's lock nor another process.
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=null_device)
        result = call_safely(lambda pickled_task: function(pickle.loads(pickled_task)), payload)
        answer = call_safely(serialise, result)
        faulthandler.cancel_dump_traceback_later()
        _send(answers, serialise(answer) if isinstance(answer, InputError) else answer)


def _limit_memory(most: int) -> None:
    """Let this process take MEMORY_LIMIT_BYTES more than it has now, on Linux; never more than most, a limit before.

    At each task, as what earlier ones left behind (a cache, a codec's leak) is not of the next one's making.
    """
    if sys.platform != "linux":  # macOS accepts such a limit and does not keep it
        return
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().partition(" ")[0])
        wanted = pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        lowest = min(limit for limit in (wanted, most, hard) if limit != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_AS, (lowest, hard))


def _receive_requests(requests: IO[bytes], inbox: queue.SimpleQueue[bytes]) -> None:
    """Pass requests on, and end this process, whatever it is doing, when the pipe ends."""
    while (payload := _receive(requests)) is not None:
        inbox.put(payload)
    os._exit(0)


if __name__ == "__main__":
    _run_worker()
