"""The processes that train one network together: who takes part, what they exchange, and how they are started."""

import atexit
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from mammovae.config import InputError, UsageError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # what torchrun sets, and launch too
_TIMEOUT = timedelta(days=7)  # a process may wait for one that calibrates; death is noticed by what started it


@dataclass
class ProcessGroup:
    """The place of this process among those that train together: alone, unless torchrun or launch started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    is_waiting: bool = field(default=True, init=False)
    """Whether the others wait for a broadcast of the first one; not while all train a network."""

    @classmethod
    def join(cls, devices: int | None = None) -> "ProcessGroup":
        """Return this process's place, once it has joined the others; devices: what was asked for on this machine."""
        is_started = all(name in os.environ for name in _ENVIRONMENT)
        group = cls(*(int(os.environ[name]) for name in _ENVIRONMENT)) if is_started else cls()
        if group.size > 1 and devices not in (None, group.local_size):
            raise UsageError(f"torchrun started {group.local_size} processes here, not {devices}: omit devices")
        needed, available = devices or group.local_size, torch.cuda.device_count()
        if available and needed > available:
            gpus = f"there are {available} GPUs on this machine: give at most {available}"
            raise UsageError(f"devices is {needed}, but {gpus}")
        if group.size % group.local_size:
            raise UsageError("torchrun started unequal numbers of processes on its machines: start as many on each")
        if group.size > 1 and not distributed.is_initialized():
            group._connect("env://")
            atexit.register(distributed.destroy_process_group)
        return group

    def _connect(self, address: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, address, timeout=_TIMEOUT, world_size=self.size, rank=self.rank)

    def rows_of(self, count: int) -> tuple[slice, int]:
        """Return this process's rows of a batch, and how many count: where none is left, the first, which does not."""
        start, stop = (place * count // self.size for place in (self.rank, self.rank + 1))
        return (slice(start, stop), stop - start) if stop > start else (slice(0, 1), 0)

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in every process; all must call this."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, on its own device; all must call this."""
        if self.size == 1:
            return value
        total = value.to("cuda" if torch.cuda.is_available() else "cpu", copy=True)
        distributed.all_reduce(total)
        return total.to(value.device)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each parameter's gradient by its sum over the processes; all must call this."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size > 1:
            total = self.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, total.split([one.numel() for one in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def batch_sum(self, count: int) -> Callable[[Tensor], Tensor]:
        """Return what adds up values (n, ...) over a batch of count images; all must call it, gradients pass."""
        if self.size == 1:
            return lambda values: values.sum(dim=0)
        return lambda values: _AllReduce.apply(values[: self.rows_of(count)[1]].sum(dim=0), self)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Let the others, who wait, raise what goes wrong here; those that train notice when this process ends."""
        try:
            yield
        except Exception as error:
            if self.is_waiting:
                self.broadcast(_picklable(error))
            raise


class _AllReduce(torch.autograd.Function):
    """The sum over processes; its gradient in each of them flows back into the part of each."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.all_reduce(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce(gradients[0]), None


def launch(count: int, work: Callable[..., object], *arguments: Any) -> None:
    """Run work(*arguments) in count new processes of this machine that form a group.

    The first process to fail ends the others, and what it raised is raised here: InputError and OSError as they are,
    what else as RuntimeError with its traceback. An interruption ends them all.
    """
    groups = [ProcessGroup(rank, count, rank, count) for rank in range(count)]
    jobs = [_ProcessJob("work", group, max(1, torch.get_num_threads() // count)) for group in groups]
    _run({"work": (work, arguments)}, jobs, count, "with fewer devices if need be")


def run_side_by_side(work: Callable[..., object], calls: Sequence[tuple[Any, ...]], at_once: int, threads: int) -> None:
    """Run work(*arguments) for each of calls in a new process of its own with so many threads, at_once at a time.

    Failures and interruptions as for launch. Their progress is told in lines, on a terminal as well.
    """
    works = {f"work-{number}": (work, arguments) for number, arguments in enumerate(calls)}
    jobs = [_ProcessJob(name, ProcessGroup(), threads) for name in works]
    _run(works, jobs, at_once, "with OMP_NUM_THREADS=1 one network after the other")


class _ProcessJob(NamedTuple):
    """What a new process is started with: the name of the file that says what to do, its group, and its threads."""

    name: str
    group: ProcessGroup
    threads: int


def _run(works: Mapping[str, tuple[Any, ...]], jobs: Sequence[_ProcessJob], at_once: int, remedy: str) -> None:
    """Run jobs in processes of their own, at_once at a time; works: function and arguments by the name of a file."""
    started: list[multiprocessing.process.BaseProcess] = []
    with TemporaryDirectory(prefix="mammovae-") as name:
        folder = Path(name)
        # Through a file, for a process reads its pipe only after seconds of imports, and starting would wait for it.
        for file, work in works.items():
            (folder / file).write_bytes(pickle.dumps(work))
        waiting = iter(jobs)
        try:
            while True:
                if failed := [process for process in started if process.exitcode]:
                    if (folder / "failure").exists():
                        raise pickle.loads((folder / "failure").read_bytes())
                    raise InputError(
                        f"a training process ended with exit code {failed[0].exitcode}, perhaps for lack of memory: "
                        f"the same command resumes from the last checkpoint, {remedy}"
                    )
                running = [process for process in started if process.exitcode is None]
                with without_main_module():
                    for job in islice(waiting, at_once - len(running)):
                        process = multiprocessing.get_context("spawn").Process(target=_take_part, args=(folder, *job))
                        process.start()
                        started.append(process)
                        running.append(process)
                if not running:
                    break
                wait([process.sentinel for process in running])
        except BaseException:
            for process in started:
                process.kill()
                process.join()
            if sys.stderr.isatty():
                print("\x1b[?25h", file=sys.stderr)  # a progress bar cut off has hidden the cursor
            raise


def _picklable(error: BaseException) -> Exception:
    """Return an error that another process can read: an unforeseen one as its traceback."""
    if isinstance(error, (InputError, OSError)):
        return error
    return RuntimeError(f"in process {os.getpid()}, which trained with others:\n{traceback.format_exc()}")


class _Lines(io.TextIOWrapper):
    """Standard error of one of several processes that know nothing of each other: bars would overwrite each other."""

    def isatty(self) -> bool:
        """Say that it is no terminal."""
        return False


def _take_part(folder: Path, name: str, group: ProcessGroup, threads: int) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work, arguments = pickle.loads((folder / name).read_bytes())
        if group.size > 1:
            os.environ.update(zip(_ENVIRONMENT, map(str, astuple(group)[:4]), strict=True))
            group._connect((folder / "meeting").as_uri())
        else:
            sys.stderr = _Lines(os.fdopen(os.dup(2), "wb"), encoding="utf-8", line_buffering=True)
        if group.rank == 0:  # all have read it, and it may name patients
            (folder / name).unlink()
        work(*arguments)
        if group.size > 1:
            distributed.destroy_process_group()
    except BaseException as error:
        # The first failure is the cause: the others fail because they lost a partner.
        partial = folder / f"failure-{name}-{group.rank}"
        partial.write_bytes(pickle.dumps(_picklable(error)))
        with suppress(FileExistsError):
            os.link(partial, folder / "failure")
        os._exit(1)  # without the clean-up of a process group that has lost a partner
    # Nor by the interpreter's end: threads of torch that are alive then abort the process now and then, its work done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """End this process when the one that started it is killed: otherwise it would train on."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


@contextmanager
def without_main_module() -> Iterator[None]:
    """Start processes that neither import the user's script, perhaps without a main guard, nor hear an interruption."""
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
        if before is not None:
            signal.signal(signal.SIGINT, before)
