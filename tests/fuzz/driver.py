"""Reads files in worker processes as prepare does, and judges what came of each."""

import resource
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import Case
from tests.fuzz.sentences import CRASH, HANG, fault_of_reason, fault_of_remarks

import mammovae
from mammovae.config import InputError
from mammovae.data.prepare_image import prepare_image
from mammovae.imageio.read import read_header
from mammovae.parallel.pool import map_unordered

TIMEOUT_S = 20.0
_MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RecursionError, TypeError)
"""What only a mistake in a program raises: where it is ours, a reason in plain words must not hide it."""
MAX_MEMORY = 1.5e9  # bytes that a worker may hold for any file
PARENT_GROWTH = 0.3e9  # bytes by which this process may grow: it reads no file itself


@dataclass
class Verdict:
    """What came of one file: ok, refused, crashed (contained), and what was wrong with the answer."""

    case: Case
    outcome: str
    words: str  # the reason of a refusal, or the remarks
    peak: int  # bytes, where the worker lived to say it
    faults: list[str] = field(default_factory=list)


def read_file(path: Path) -> dict[str, Any]:
    """Read a header and prepare an image, in a worker; return what came of each, and the most memory held."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again here
    answers = {
        "header": _answer(lambda: "" if (header := read_header(path)) is None else header.get("kind", "")),
        "image": _answer(lambda: prepare_image(path, size=64).fields["reason"] or ""),
    }
    return answers | {"peak": _peak()}


def _answer(call: Callable[[], str]) -> tuple[str, str]:
    """Return "ok" and remarks, "refused" and the reason, or "traceback" and where it came from."""
    try:
        return "ok", call()
    except InputError as error:
        cause = error.__cause__
        if cause is not None and isinstance(cause, _MISTAKES) and _is_raised_by_us(cause):
            return "traceback", f"behind the reason {error}: {_lines(cause)}"
        return "refused", str(error)
    except Exception as error:
        return "traceback", _lines(error)


def _is_raised_by_us(error: BaseException) -> bool:
    """Say whether an exception was raised in mammovae itself, not in a library that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(mammovae.__file__).parent)


def _lines(error: BaseException) -> str:
    lines = (line.strip() for part in traceback.format_exception(error)[-3:] for line in part.splitlines())
    return " | ".join(line for line in lines if line.strip("^ "))


def _peak() -> int:
    """Return the most memory that this process held, in bytes, since its peak was started again."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    return 0


def judge(case: Case, path: Path, result: dict[str, Any] | InputError) -> Verdict:
    """Say what is wrong with the answers to one file."""
    if isinstance(result, InputError):
        words = str(result)
        if HANG.search(words):
            return Verdict(case, "hang", words, 0, [f"a hang: {words}"])
        faults = [] if (fault := fault_of_reason(words, path)) is None else [fault]
        return Verdict(case, "crashed" if CRASH.search(words) else "refused", words, 0, faults)
    faults = []
    for what in ("header", "image"):
        outcome, words = result[what]
        if outcome == "traceback":
            faults.append(f"a traceback of the {what}: {words}")
        elif outcome == "refused" and (fault := fault_of_reason(words, path)) is not None:
            faults.append(f"of the {what}: {fault}")
    outcome, words = result["image"]
    if outcome == "ok" and (fault := fault_of_remarks(words)) is not None:
        faults.append(fault)
    if result["peak"] > MAX_MEMORY:
        faults.append(f"memory: {result['peak'] / 1e9:.2f} GB")
    return Verdict(case, outcome, words, result["peak"], faults)


def run(cases: Iterable[Case], folder: Path, *, workers: int = 2, keep: Path | None = None) -> Iterator[Verdict]:
    """Yield the verdict on each case; its file lies in folder while it is read, and in keep if it went wrong."""
    open_cases: dict[Path, Case] = {}

    def paths() -> Iterator[Path]:
        for case in cases:
            path = folder / f"{case.number:05d}{case.suffix}"
            path.write_bytes(case.content)
            open_cases[path] = replace(case, content=b"")  # which may be tens of megabytes
            yield path

    for path, result in map_unordered(read_file, paths(), workers=workers, timeout=TIMEOUT_S):
        verdict = judge(open_cases.pop(path), path, result)
        if keep is not None and (verdict.faults or verdict.outcome == "crashed"):
            path.rename(keep / path.name)
        else:
            path.unlink()
        yield verdict


def memory_faults(parent_before: int) -> list[str]:
    """Return what the operating system says of the memory of this process and of its workers."""
    children, parent = (1024 * resource.getrusage(who).ru_maxrss for who in (-1, 0))  # RUSAGE_CHILDREN, RUSAGE_SELF
    faults = [f"a worker held {children / 1e9:.2f} GB"] if children > MAX_MEMORY else []
    if parent - parent_before > PARENT_GROWTH:
        faults.append(f"the parent grew by {(parent - parent_before) / 1e9:.2f} GB")
    return faults
