"""Stage folders, their manifests and journals: each file is written in one step, so that none is ever half-written."""

import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from filelock import FileLock, Timeout

from mammovae.config import InputError, UsageError
from mammovae.version import __version__

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk that is full, and of a user's share of it."""
_NEAR_BEGIN = 4096  # bytes of a file in which it is known as a result that may be written anew
_FORMULA = re.compile(r"'*(?:[=+\-@]|\\t|\\r)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # and what is no character at all


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to, and rename it to path when the block ends without error.

    A durable write outlives a power cut from then on. Where the disk is full, the OSError names path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with naming(path):
            yield partial
            if durable:
                _sync(partial)
            partial.replace(path)
            if durable:
                _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_replaceable(name: str, path: Path, mark: str) -> None:
    """Refuse, with UsageError, to write over a folder, or over a file that does not hold mark near its begin."""
    if path.is_dir():
        raise UsageError(f"--{name} {path} is a folder: name a file to write")
    if path.exists():
        with path.open("rb") as file:
            is_ours = mark.encode() in file.read(_NEAR_BEGIN)
        if not is_ours:
            raise UsageError(f"--{name} {path} is another file, which would be lost: name a new one")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the error of a full disk say so and name the file: NumPy and PyTorch raise others, and writing names none."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        if code is None and shutil.disk_usage(path.parent).free < 2**20:
            code = errno.ENOSPC
        if code in DISK_FULL:
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file_system(folder: Path) -> None:
    """Wait until all that was written under a folder is on the disk: thousands of files at once, maps as well."""
    if sys.platform != "linux":
        for path in (*folder.rglob("*"), folder):
            if path.is_file() or path.is_dir():  # a pipe would be waited for
                _sync(path)
        return
    library = ctypes.CDLL(None, use_errno=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if library.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write text to path in one step."""
    with atomic_write(path, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8")


def update_text(path: Path, text: str) -> None:
    """Write text to path in one step, unless it is there already: a disk that is read-only by now is no hindrance."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write value to path as indented JSON in one step; NaN becomes null, as JSON has none."""
    write_text(path, json.dumps(_to_json(value), indent=2, allow_nan=False) + "\n", durable=durable)


def write_csv(frame: "pd.DataFrame", path: Path, *, float_format: str | None = None) -> None:
    """Write a table for people in one step; no cell of text is a formula to a spreadsheet, or moves a terminal.

    Text that begins with =, +, -, @, tab or carriage return gets an apostrophe before it, as does text that begins so
    already; control characters are written as Python writes them in quotes.
    """
    texts = frame.select_dtypes(exclude=["number", "bool"])
    harmless = {str(name): [_harmless(cell) for cell in texts[name].to_numpy(object)] for name in texts}
    columns = {name: np.array([*cells, None], object)[:-1] for name, cells in harmless.items()}  # never of two axes
    with atomic_write(path) as partial:
        frame.assign(**columns).to_csv(partial, index=False, float_format=float_format)


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), cell)
    return f"'{text}" if _FORMULA.match(text) else text


def allocate_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """Create an .npy file of zeros whose whole space is reserved, and map it.

    Raises InputError, with what is needed and what is free, when the disk has no room: without the reservation, a disk
    that is full when a page is written kills the process.
    """
    with atomic_write(path) as partial:
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        _reserve(partial)
    return np.lib.format.open_memmap(path, mode="r+")


def _reserve(file: Path) -> None:
    needed, free = file.stat().st_size, shutil.disk_usage(file.parent).free
    code = errno.ENOSPC if needed > free else 0  # all that can be known where space cannot be reserved
    if hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            with file.open("r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, needed)
            code = 0
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of file systems that cannot
                code = error.errno
    if code:
        reasons = {
            errno.ENOSPC: f"{_bytes(free)} are free on its disk",
            errno.EDQUOT: "your share of its disk is used up",
            errno.EFBIG: "its disk, or your limit, has no file that large",
        }
        need = f"{file.parent} needs {_bytes(needed)} more for its images"
        raise InputError(f"{need}, and {reasons.get(code, os.strerror(code))}: free some or name another --out")


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def read_json(path: Path) -> dict:
    """Read a JSON object; InputError names a file that is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*values: Any) -> str:
    """Return a short hash of plain values, in hexadecimal, as a name for their result."""
    return hashlib.sha256(json.dumps(_to_json(values), sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_hash(*places: str) -> str:
    """Return a hash of rooms and source files of mammovae: a cache must not hold what other code made."""
    package = Path(__file__).parent
    parts = [package / place for place in places]
    files = [path for part in parts for path in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]
    return digest({str(path.relative_to(package)): file_hash(path) for path in files})


def acquire_lock(path: Path, out: Path) -> FileLock:
    """Return the lock of an output, held; UsageError, which names out, when another process writes it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another mammovae is writing {out}: wait for it, or name another --out") from None
    return lock


class StageFolder:
    """One command's output folder while it is written.

    The manifest is written first with state "running" and last, by finish, with state "done". A second start with the
    same settings resumes, and finds a finished folder done, though its disk be read-only. One with other settings is
    refused, naming the key that differs.
    """

    def __init__(self, out: Path, command: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.out = out
        self.done = self._was_done = False
        self._manifest: dict[str, Any] = {"command": command, "state": "running"}
        self._manifest |= {"settings": _to_json(dict(settings)), "inputs": dict(inputs)}
        self._begin = time.monotonic()
        self._lock: FileLock | None = None

    def __enter__(self) -> Self:
        """Create or resume the folder, locked unless it is done; UsageError when it holds something else."""
        if any(path.exists() and not path.is_dir() for path in (self.out, *self.out.parents)):
            raise UsageError(f"--out {self.out} is, or lies in, a file: name a folder")
        path = self.out / MANIFEST
        if path.is_file() and self._is_done(read_json(path)):
            return self
        self.out.mkdir(parents=True, exist_ok=True)
        if not path.is_file() and {entry.name for entry in self.out.iterdir()} - {".lock"}:
            raise UsageError(f"--out {self.out} holds other files: name a new folder or an empty one")
        self._lock = acquire_lock(self.out / ".lock", self.out)
        try:
            if not path.is_file() or not self._is_done(read_json(path)):  # another process may have finished it now
                self._begin_writing()
        except BaseException:
            self._lock.release()
            raise
        return self

    def reopen(self) -> None:
        """Go on with a finished folder, which is unfinished until `finish`."""
        if self._lock is None:
            self._lock = acquire_lock(self.out / ".lock", self.out)
        self.done = self._was_done = False
        self._begin_writing()

    def _begin_writing(self) -> None:
        for partial in self.out.rglob(".*.partial*"):
            if re.search(r"\.\d+\.partial", partial.name):
                partial.unlink()  # a write that a kill cut off
        write_json(self.out / MANIFEST, self._manifest | provenance(), durable=True)

    def _is_done(self, old: dict[str, Any]) -> bool:
        """Say whether a folder with this manifest needs nothing more; UsageError when it is of another call."""
        for part in ("command", "settings", "inputs"):
            if difference := first_difference(old.get(part), self._manifest[part]):
                key, was, now = difference
                raise UsageError(
                    f"{self.out} was begun with another {key or part} ({was!r}, now {now!r}): name a new --out"
                )
        self.done = self._was_done = old.get("state") == "done"
        return self.done

    def finish(self, **facts: Any) -> None:
        """Write the final manifest with facts about the result, once that is on the disk; seconds are of this call."""
        sync_file_system(self.out)
        end = {"state": "done", "seconds": round(time.monotonic() - self._begin, 1)}
        write_json(self.out / MANIFEST, self._manifest | end | provenance() | facts, durable=True)
        self.done = True

    def facts(self) -> dict[str, Any]:
        """Return the manifest on disk."""
        return read_json(self.out / MANIFEST)

    def __exit__(self, kind: object, *_: object) -> None:
        """Release the lock, and remove it from a finished folder; say so where there was nothing to do."""
        if self._was_done and kind is None:
            print(f"{self.out} is done already", file=sys.stderr)
        if self._lock is not None:
            self._lock.release()
            if self.done:
                (self.out / ".lock").unlink(missing_ok=True)


def read_manifest(folder: Path, *commands: str) -> dict[str, Any]:
    """Return the manifest of a finished folder that one of the commands wrote; InputError says what it is instead."""
    command = commands[0]
    kind = {"prepare": "a DATA folder", "train": "a RUN folder"}.get(command, f"a folder of {command}")
    path = folder / MANIFEST
    if not folder.is_dir():
        what = f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}"
        if zipfile.is_zipfile(folder):
            raise InputError(f"{folder} is a zip archive: unzip it, and name the folder that it was unzipped to")
        raise InputError(f"{what}: name {kind} that mammovae {command} wrote")
    if not path.is_file():
        raise InputError(f"{folder} is not {kind}: it has no {MANIFEST}")
    manifest = read_json(path)
    if manifest.get("command") not in commands:
        raise InputError(f"{folder} was written by mammovae {manifest.get('command')}: name {kind}")
    if manifest.get("state") != "done":
        raise InputError(f"{folder} is unfinished: run the same mammovae {manifest['command']} again to complete it")
    return manifest


def provenance() -> dict[str, Any]:
    """Return the origin of a folder: versions, the git commit where there is one, the kind of machine, the time."""
    packages = ("numpy", "pandas", "pillow", "pydicom", "scipy", "torch")
    versions = {"mammovae": __version__, "python": platform.python_version()}
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions | {package: version(package) for package in packages},
        "git_commit": _git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _git_commit() -> str | None:
    package = Path(__file__).resolve().parent
    if not (package.parents[1] / ".git").exists():  # installed: a repository further up is of another project
        return None
    try:
        command = ["git", "-C", str(package), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Return (dotted key, old value, new value) of the first place where two nested values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = ((name, f"{key}.{name}" if key else name) for name in old | new)
        differences = (first_difference(old.get(name), new.get(name), dotted) for name, dotted in names)
        return next(filter(None, differences), None)
    return None if old == new else (key, old, new)


def _to_json(value: Any) -> Any:
    """Turn paths, tuples, NumPy scalars and NaN into values that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if hasattr(value, "tolist"):
        return _to_json(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value
