"""The rows of a DATA folder while they are prepared: pixels in arrays on disk, all else in a journal."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import numpy as np

from mammovae.config import InputError
from mammovae.data.listing import Listing
from mammovae.data.prepare_image import UNSTATED_RANGE_SUFFIXES, PreparedImage, Unprepared
from mammovae.imageio.decoded_image import white_of
from mammovae.journal import Journal
from mammovae.storage import allocate_array
from mammovae.version import __version__

JOURNAL = ".rows.jsonl"

_SAMPLE = 16  # files without a stated range that are read first, to learn what white may be
_NONE = -1  # no white, or no greatest value


class _Array(NamedTuple):
    """An array of a DATA folder, under its name while it is filled and its name for good."""

    values: np.memmap
    partial_path: Path
    path: Path


class PreparedRows:
    """What is known of each row so far; the parent process is the only writer.

    Context manager: a row counts once its line is in the journal, and only while its file is as it was read.
    """

    def __init__(self, out: Path, listing: Listing, size: int) -> None:
        self._listing, self._journal = listing, Journal(out / JOURNAL, f"prepare {__version__}")
        count = len(listing.frame)
        self._arrays = [
            self._allocate(out, name, dtype, (count, size, size))
            for name, dtype in (("images", np.uint16), ("masks", np.uint8))
        ]
        self.images, self.masks = (array.values for array in self._arrays)
        self._stamps = listing.stamps()
        self._is_listed = (listing.frame["status"] == "ok").to_numpy(bool)
        self._line = np.full(count, _NONE)  # of the row's valid entry in the journal
        self._max = np.full(count, _NONE)  # the greatest value of a file that does not state its range
        self._white = np.full(count, _NONE)  # that the row was read with
        self._has_failed = np.zeros(count, bool)
        self._lines = 0

    def _allocate(self, out: Path, name: str, dtype: type, shape: tuple[int, ...]) -> _Array:
        path, partial_path = out / f"{name}.npy", out / f".{name}.partial.npy"
        if path.exists():
            path.rename(partial_path)
        if partial_path.exists():
            return _Array(np.lib.format.open_memmap(partial_path, mode="r+"), partial_path, path)
        self._journal.path.unlink(missing_ok=True)
        return _Array(allocate_array(partial_path, dtype, shape), partial_path, path)

    def __enter__(self) -> Self:
        """Open the journal and learn from it which rows are done."""
        with ExitStack() as stack:
            stack.enter_context(self._journal)
            for entry in self._journal.entries():
                self._note(entry)
            stack.pop_all()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        """Close the journal, which is marked where no error ends the work."""
        self._journal.__exit__(kind, *error)

    def forget_failed(self) -> None:
        """Have the rows that failed done again."""
        self._line[self._has_failed] = _NONE

    def white(self) -> int | None:
        """Return `white_of` all files without a stated range that were read; None where there are none."""
        greatest = int(self._max.max(initial=_NONE))
        return None if greatest == _NONE else white_of(greatest)

    def left(self, white: int | None) -> list[int]:
        """Return the rows that are to be done: not yet, or done with another white than this."""
        is_stale = (self._max != _NONE) & (self._white != (_NONE if white is None else white))
        return np.flatnonzero(self._is_listed & ((self._line == _NONE) | is_stale)).tolist()

    def sample(self) -> list[int]:
        """Return a few rows that may not state their range, where none of them was read yet."""
        if (self._max != _NONE).any():
            return []
        sources = self._listing.frame["source"].tolist()
        rows = [row for row in self.left(None) if PurePosixPath(sources[row]).suffix.lower() in UNSTATED_RANGE_SUFFIXES]
        return [rows[n] for n in sorted({round(n) for n in np.linspace(0, len(rows) - 1, _SAMPLE)})] if rows else []

    def store(self, row: int, result: PreparedImage | Unprepared | InputError, white: int | None) -> None:
        """Store one result: its pixels, then the line in the journal that says that they are there."""
        entry: dict[str, Any] = {"row": row, "stamp": self._stamps[row], "white": white}
        if isinstance(result, PreparedImage):
            self.images[row], self.masks[row] = result.image, result.mask
            names = ("fields", "chest_wall", "digest", "measurements", "max_value")
            entry |= {name: getattr(result, name) for name in names}
        else:
            entry |= {"fields": {"status": "failed", "reason": str(result)}}
            entry |= {"max_value": result.max_value if isinstance(result, Unprepared) else None}
        self._journal.add(entry)
        self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        row, stamp = entry["row"], self._stamps[entry["row"]]
        self._lines += 1
        if stamp is None or tuple(entry["stamp"]) != stamp:
            return  # the file was replaced since
        self._line[row] = self._lines
        self._max[row] = _NONE if entry["max_value"] is None else entry["max_value"]
        self._white[row] = _NONE if entry["white"] is None else entry["white"]
        self._has_failed[row] = entry["fields"].get("status") == "failed"

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the valid entry of each row that is done."""
        for line, entry in enumerate(self._journal.entries(), start=1):
            if self._line[entry["row"]] == line:
                yield entry

    def finish(self) -> None:
        """Give the arrays their names."""
        for array in self._arrays:
            array.values.flush()
            array.partial_path.rename(array.path)
