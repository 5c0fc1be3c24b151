"""Stage folders, their manifests and journals: each file is written in one step, so that none is ever half-written."""

import hashlib
import json
import mmap
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from mammovae.config import InputError, UsageError
from mammovae.version import __version__

MANIFEST = "manifest.json"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to, and rename it to path when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text to path in one step."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write value to path as indented JSON in one step; NaN becomes null, as JSON has none."""
    write_text(path, json.dumps(_to_json(value), indent=2, allow_nan=False) + "\n")


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
def code_hash(*rooms: str) -> str:
    """Return a hash of the source files of some rooms of mammovae: a cache must not hold what other code made."""
    files = [path for room in rooms for path in sorted((Path(__file__).parent / room).rglob("*.py"))]
    return digest({str(path.relative_to(Path(__file__).parent)): file_hash(path) for path in files})


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
    same settings resumes; one with other settings is refused, naming the key that differs.
    """

    def __init__(self, out: Path, command: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.out = out
        self.done = False
        self._manifest: dict[str, Any] = {"command": command, "state": "running"}
        self._manifest |= {"settings": _to_json(dict(settings)), "inputs": dict(inputs)}
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        """Create or resume the folder, locked; UsageError when it holds something else."""
        if any(path.exists() and not path.is_dir() for path in (self.out, *self.out.parents)):
            raise UsageError(f"--out {self.out} is, or lies in, a file: name a folder")
        path = self.out / MANIFEST
        self.out.mkdir(parents=True, exist_ok=True)
        if not path.is_file() and {entry.name for entry in self.out.iterdir()} - {".lock"}:
            raise UsageError(f"--out {self.out} holds other files: name a new folder or an empty one")
        self._lock = acquire_lock(self.out / ".lock", self.out)
        try:
            for partial in self.out.rglob(".*.partial*"):
                if re.search(r"\.\d+\.partial", partial.name):
                    partial.unlink()  # a write that a kill cut off
            if path.is_file():
                self._resume(read_json(path))
            else:
                write_json(path, self._manifest | provenance())
        except BaseException:
            self._lock.release()
            raise
        return self

    def _resume(self, old: dict[str, Any]) -> None:
        for part in ("command", "settings", "inputs"):
            if difference := first_difference(old.get(part), self._manifest[part]):
                key, was, now = difference
                raise UsageError(
                    f"{self.out} was begun with another {key or part} ({was!r}, now {now!r}): name a new --out"
                )
        self.done = old.get("state") == "done"
        if self.done:
            print(f"{self.out} is done already", file=sys.stderr)

    def finish(self, **facts: Any) -> None:
        """Write the final manifest with facts about the result; seconds is the time of this call alone."""
        end = {"state": "done", "seconds": round(time.monotonic() - self._begin, 1)}
        write_json(self.out / MANIFEST, self._manifest | end | provenance() | facts)
        self.done = True

    def facts(self) -> dict[str, Any]:
        """Return the manifest on disk."""
        return read_json(self.out / MANIFEST)

    def __exit__(self, *_: object) -> None:
        """Release the lock, and remove it from a finished folder."""
        self._lock.release()
        if self.done:
            (self.out / ".lock").unlink(missing_ok=True)


class Journal:
    """The results of a long job, one JSON line each as they come, so that an interrupted job resumes.

    key identifies the job: the lines of another one are dropped, as is a last line that a kill cut off.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key

    def __enter__(self) -> Self:
        """Open the journal for more results."""
        header, end = json.dumps({"journal of": self._key}) + "\n", 0
        if self.path.is_file() and self.path.stat().st_size:
            # Mapped, not read: the journal of a million images is gigabytes.
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1 if content[: len(header.encode())] == header.encode() else 0
        if end:
            os.truncate(self.path, end)
        else:
            write_text(self.path, header)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one result, of values that JSON can hold."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the results so far, in the order in which they came; of a key written twice the later one is valid."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)

    def delete(self) -> None:
        """Delete the file, once its results are stored elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()


def read_manifest(folder: Path, *commands: str) -> dict[str, Any]:
    """Return the manifest of a finished folder that one of the commands wrote; InputError says what it is instead."""
    command = commands[0]
    kind = {"prepare": "a DATA folder", "train": "a RUN folder"}.get(command, f"a folder of {command}")
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name {kind} that mammovae {command} wrote")
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
