"""The processes that train one network together: who takes part, what they tell each other, how they are started."""

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed

from mammovae.config import InputError, UsageError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun tells each process that it starts, and in_processes too."""
_PATIENCE = timedelta(days=7)
"""How long a process waits for another, which may be calibrating; one that dies is noticed by what started it."""


@dataclass
class ProcessGroup:
    """This process's place among those that train together: alone, unless torchrun or in_processes started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    listening: bool = field(default=True, init=False)
    """Whether the others wait for the first one's word; not while all are at work on a network."""

    @classmethod
    def here(cls, devices: int | None = None) -> "ProcessGroup":
        """Return this process's place, once it has joined the others; devices: what was asked for on this machine.

        UsageError when devices is less than 1, more than there are GPUs (where there are any), or not what torchrun
        started.
        """
        if devices is not None and devices < 1:
            raise UsageError(f"devices is {devices}: give at least 1")
        told = all(name in os.environ for name in _ENVIRONMENT)
        team = cls(*(int(os.environ[name]) for name in _ENVIRONMENT)) if told else cls()
        if team.size > 1 and devices not in (None, team.local_size):
            raise UsageError(f"torchrun started {team.local_size} processes here, not {devices}: leave devices out")
        wanted, found = devices or team.local_size, torch.cuda.device_count()
        if found and wanted > found:
            raise UsageError(f"devices is {wanted}, but there are {found} GPUs on this machine: give at most {found}")
        if team.size % team.local_size:
            raise UsageError("torchrun started unequal numbers of processes on its machines: start as many on each")
        if team.size > 1 and not distributed.is_initialized():
            team._join("env://")
            atexit.register(distributed.destroy_process_group)
        return team

    def _join(self, meeting: str) -> None:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(self.local_rank)
        backend = "nccl" if on_gpu else "gloo"
        distributed.init_process_group(
            backend, init_method=meeting, timeout=_PATIENCE, world_size=self.size, rank=self.rank
        )

    def share(self, count: int) -> tuple[slice, int]:
        """Return which rows of a batch of count are this process's, and how many of them count: all, or none of one.

        A process for which none is left takes the first, for it has to take part in every step.
        """
        start, stop = (place * count // self.size for place in (self.rank, self.rank + 1))
        return (slice(start, stop), stop - start) if stop > start else (slice(0, 1), 0)

    def agree(self, value: Any) -> Any:
        """Return the first process's value in every process; all must call this."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, where it lay; all must call this."""
        if self.size == 1:
            return value
        added = value.to("cuda" if torch.cuda.is_available() else "cpu", copy=True)
        distributed.all_reduce(added)
        return added.to(value.device)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Let the others, who listen, raise what goes wrong here; those at work notice when this process ends."""
        try:
            yield
        except Exception as error:
            if self.listening:
                self.agree(_portable(error))
            raise


def launch(count: int, work: Callable[..., object], *arguments: Any) -> None:
    """Run work(*arguments) in count new processes of this machine that form a team.

    The first process to fail ends the others, and what it raised is raised here: InputError and OSError as they are,
    what else as RuntimeError with its traceback. An interruption ends them all. Arguments are pickled, and each process
    has a copy of its own.
    """
    processes: list[multiprocessing.process.BaseProcess] = []
    with TemporaryDirectory(prefix="mammovae-") as name:
        place = Path(name)
        # Through a file, for a process reads its pipe only after seconds of imports, and starting would wait for it.
        (place / "work").write_bytes(pickle.dumps((work, arguments)))
        threads = max(1, torch.get_num_threads() // count)
        try:
            with _unseen():
                for rank in range(count):
                    told = (place, ProcessGroup(rank, count, rank, count), threads)
                    process = multiprocessing.get_context("spawn").Process(target=_take_part, args=told)
                    process.start()
                    processes.append(process)
            while running := [process for process in processes if process.exitcode is None]:
                wait([process.sentinel for process in running])
                if failed := [process for process in running if process.exitcode]:
                    raise _failure(place, failed[0].exitcode)
        except BaseException:
            for process in processes:
                process.kill()
                process.join()
            if sys.stderr.isatty():
                print("\x1b[?25h", file=sys.stderr)  # a progress bar cut off has hidden the cursor
            raise


def _failure(place: Path, exit_code: int | None) -> Exception:
    """Return what the first process to fail left, or say how it ended."""
    if (place / "failure").exists():
        return pickle.loads((place / "failure").read_bytes())
    return InputError(
        f"a training process ended with exit code {exit_code}, perhaps for lack of memory: "
        "the same command goes on from the last checkpoint, with fewer devices if need be"
    )


def _portable(error: BaseException) -> Exception:
    """Return an error that another process can read: an unforeseen one as its traceback."""
    if isinstance(error, (InputError, OSError)):
        return error
    return RuntimeError(f"in process {os.getpid()}, which trained with others:\n{traceback.format_exc()}")


def _take_part(place: Path, team: ProcessGroup, threads: int) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(zip(_ENVIRONMENT, map(str, astuple(team)[:4]), strict=True))
    torch.set_num_threads(threads)
    try:
        work, arguments = pickle.loads((place / "work").read_bytes())
        team._join((place / "meeting").as_uri())
        if team.rank == 0:  # all have read it, and it may name patients
            (place / "work").unlink()
        work(*arguments)
        distributed.destroy_process_group()
    except BaseException as error:
        # The first failure is the cause: the others fail because they lost a partner.
        partial = place / f"failure-{team.rank}"
        partial.write_bytes(pickle.dumps(_portable(error)))
        with suppress(FileExistsError):
            os.link(partial, place / "failure")
        os._exit(1)  # without the rites of a process group that has lost a partner


def _die_with_parent() -> None:
    """End this process when the one that started it is killed: otherwise it would train on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _unseen() -> Iterator[None]:
    """Start processes that neither run the user's script again nor hear an interruption; in_processes ends them.

    A new process imports the main module, and a script without a main guard would start its own work there. Ours need
    nothing of it.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    listening = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if listening else None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
        if before is not None:
            signal.signal(signal.SIGINT, before)
