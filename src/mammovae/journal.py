"""Journals of long jobs: results as they come, from which an interrupted job resumes."""

import json
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from mammovae.storage import naming, sync_file_system, write_text

SYNC_INTERVAL_S = 60.0  # how much work a power cut may cost
_MARK = '{"on disk at boot": '


class Journal:
    """The results of a long job, one JSON line each as they come, so that an interrupted job resumes.

    key identifies the job: the lines of another one are dropped, as is a last line that a kill cut off. Now and then
    all that was written is brought to the disk and marked in the journal: after a power cut, or any other start of the
    machine, only entries before the last mark are valid, as the results that they speak of may be lost.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key

    def __enter__(self) -> Self:
        """Open the journal for more results."""
        header, end = json.dumps({"journal of": self._key}) + "\n", 0
        if self.path.is_file() and self.path.stat().st_size:
            # Mapped, not read: the journal of a million images is gigabytes.
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content[: len(header.encode())] == header.encode():
                    end = _end_of_valid_lines(content)
        if end:
            os.truncate(self.path, end)
        else:
            write_text(self.path, header)
        self._file = self.path.open("a", encoding="utf-8")
        self._mark()
        return self

    def _mark(self) -> None:
        if boot_id():
            sync_file_system(self.path.parent)
            self._write(_mark_line())
        self._marked_at = time.monotonic()

    def _write(self, line: str) -> None:
        with naming(self.path):
            self._file.write(line)
            self._file.flush()

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one result, of values that JSON can hold, whose files have been written."""
        self._write(json.dumps(entry) + "\n")
        if time.monotonic() - self._marked_at >= SYNC_INTERVAL_S:
            self._mark()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the results so far, in the order in which they came; of a key written twice the later one is valid."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            yield from (json.loads(line) for line in file if not line.startswith(_MARK))

    def delete(self) -> None:
        """Delete the file, once its results are stored elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the file, marked where no error ends the work."""
        if kind is None and not self._file.closed:
            self._mark()
        with naming(self.path):
            self._file.close()


def _mark_line() -> str:
    return f'{_MARK}"{boot_id()}"}}\n'


def _end_of_valid_lines(journal: mmap.mmap) -> int:
    """Return where the lines end that are complete and whose results are still there."""
    end = journal.rfind(b"\n") + 1
    mark = journal.rfind(b"\n" + _MARK.encode(), 0, end) + 1
    end_of_mark = journal.find(b"\n", mark) + 1
    return end_of_mark if mark and journal[mark:end_of_mark] != _mark_line().encode() else end


def boot_id() -> str:
    """Return what is another at each start of the machine, where its kernel says so."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
