"""The listing of a raw data set: its files, what their headers say, and a row an image; kept for the next call."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mammovae.config import InputError, PrepareSettings, SourceKind, UsageError
from mammovae.data import index
from mammovae.data.prepare_image import HeadersTask
from mammovae.data.sources import SOURCES
from mammovae.imageio.raw_tree import RawTree, Stamp
from mammovae.journal import Journal
from mammovae.parallel import pool
from mammovae.report.formatting import plural
from mammovae.report.progress import Progress
from mammovae.storage import atomic_write
from mammovae.version import __version__

HEADERS, LISTING = ".headers.jsonl", ".listing.parquet"  # of a DATA folder

_FILES_PER_TASK = 64  # headers that one task reads: to send a task costs as much as to read a header or two
_SHARED = ("side", "view", "vendor", "model", "modality", "kind")  # header fields with few different values
_SCHEMA = index.SCHEMA.append(pa.field("size", pa.int64())).append(pa.field("modified_ns", pa.int64()))

Header = dict[str, Any] | None


class CompactHeaders(Mapping[str, Header]):
    """What files say, by source: as `read_header` gives it, None for what is no image, or why it cannot be read.

    Held as tuples, so that a hundred thousand headers take tens of megabytes.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, ...] | None] = {}
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, source: str, header: Header) -> None:
        """Add, or replace, the header of a file."""
        if header is None:
            self._values[source] = None
            return
        known = {name: value for name, value in header.items() if value is not None}
        names = tuple(known)
        shared = {name: sys.intern(known[name]) for name in _SHARED if isinstance(known.get(name), str)}
        self._values[source] = (self._names.setdefault(names, names), *(known | shared).values())

    def __getitem__(self, source: str) -> Header:
        """Return a file's header."""
        entry = self._values[source]
        return None if entry is None else dict(zip(entry[0], entry[1:], strict=True))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the sources."""
        return iter(self._values)

    def __len__(self) -> int:
        """Count the files."""
        return len(self._values)


@dataclass(frozen=True)
class Listing:
    """The rows of an index before any image is read, and the files that they were made from."""

    frame: pd.DataFrame
    """The index's columns; status ok, missing, or failed for what could not be listed."""
    tree: RawTree

    @classmethod
    def make(cls, kind: SourceKind, tree: RawTree, headers: CompactHeaders, settings: PrepareSettings) -> "Listing":
        """List a raw data set, scanned and with the headers that its source needs.

        Raises InputError when it is not of this kind or no image matches the settings.
        """
        source = SOURCES[kind]
        rules = {"healthy": settings.healthy} if source.healthy_rules else {}
        listed = source.list_images(tree, headers, **rules)
        frame = index.limit_present(index.matching(listed, settings.side, settings.view), settings.limit)
        if frame.empty:
            words = f"check --side, --view and the kind ({kind} reads {source.reads})"
            raise InputError(f"no image in {tree.root} matches: {words}")
        return cls(frame, tree)

    def notes(self) -> list[str]:
        """Return sentences on what was not looked into, each to be said once."""
        notes = []
        if total := self.tree.archives.total():
            kinds = ", ".join(sorted(self.tree.archives))
            notes.append(
                f"{plural(total, 'archive')} ({kinds}) not looked into: unpack, or name a .zip as the data set"
            )
        if self.tree.own_folders:
            folders = ", ".join(self.tree.own_folders[:3])
            notes.append(f"{plural(len(self.tree.own_folders), 'folder')} of mammovae's own passed by ({folders})")
        return notes

    def stamps(self) -> list[Stamp | None]:
        """Return what each row's file is known by, None where it is not there."""
        return [self.tree.files.get(source) for source in self.frame["source"]]

    def in_order_of(self, out: Path) -> "Listing":
        """Return this with its rows in the order of the listing that out was begun with, where both have the same.

        A file that a CSV lists stands behind the others while it is missing, and among them once it is there.
        """
        if not (out / LISTING).is_file():
            return self
        old = pq.read_table(out / LISTING, columns=["source"]).column("source").to_pylist()
        new, places = self.frame["source"].tolist(), {source: place for place, source in enumerate(old)}
        if new == old or len(new) != len(places) or set(new) != places.keys():
            return self
        order = sorted(range(len(new)), key=lambda row: places[new[row]])
        return replace(self, frame=self.frame.iloc[order].reset_index(drop=True))

    def save(self, out: Path) -> None:
        """Keep the listing in out, for `check_unchanged`."""
        with atomic_write(out / LISTING) as partial_path:
            pq.write_table(self._table(), partial_path)

    def check_unchanged(self, out: Path, tolerated: Iterable[int] | None = ()) -> None:
        """Refuse, with UsageError, to go on in out when it was begun with another listing; name the first difference.

        tolerated are rows whose files may have changed since; None: all of them, but not which images there are.
        """
        if not (out / LISTING).is_file():
            return
        old, new = pq.read_table(out / LISTING), self._table()
        if old.equals(new):
            return
        advice = f"{out} was begun with another listing"
        sources = [table.column("source").to_pylist() for table in (old, new)]
        free = set() if tolerated is None else set(tolerated)
        moved = (n for n, (a, b) in enumerate(zip(*sources, strict=False)) if a != b and n not in free)
        if len(sources[0]) != len(sources[1]) or next(moved, None) is not None:
            added, gone = sorted(set(sources[1]) - set(sources[0])), sorted(set(sources[0]) - set(sources[1]))
            what = f"{added[0]} is new" if added else f"{gone[0]} is gone" if gone else "the order has changed"
            raise UsageError(f"{advice}: {what}; name a new --out")
        if tolerated is None:
            return
        for name in _SCHEMA.names:
            before, now = old.column(name).to_pylist(), new.column(name).to_pylist()
            row = next((n for n, (a, b) in enumerate(zip(before, now, strict=True)) if a != b and n not in free), None)
            if row is not None:
                change = f"{name} was {before[row]!r} and is {now[row]!r}"
                change = "the file was changed since" if name in ("size", "modified_ns") else change
                raise UsageError(f"{advice}: {sources[1][row]}: {change}; name a new --out")

    def _table(self) -> pa.Table:
        stamps = self.stamps()
        table = pa.Table.from_pandas(self.frame[index.COLUMNS], schema=index.SCHEMA, preserve_index=False)
        for field, values in (
            (_SCHEMA.field("size"), [stamp and stamp.size for stamp in stamps]),
            (_SCHEMA.field("modified_ns"), [stamp and stamp.modified_ns for stamp in stamps]),
        ):
            table = table.append_column(field, pa.array(values, pa.int64()))
        return table.replace_schema_metadata(None)


def scan(root: Path) -> RawTree:
    """List the files of a raw data set, with progress."""
    with Progress("listing", None, unit="files") as progress:
        return RawTree.scan(root, report=lambda count: progress.advance(count - progress.done))


def needed_headers(kind: SourceKind, tree: RawTree, out: Path, run: pool.Run) -> CompactHeaders:
    """Read the headers that a kind's source needs by worker processes; they are kept in out, from which this resumes.

    Raises InputError when workers cannot be started, or are lost: what was read until then is kept.
    """
    sources, path = list(filter(SOURCES[kind].needs_header, tree.files)), out / HEADERS
    headers = CompactHeaders()
    journal, is_writable = Journal(path, f"headers {__version__}"), os.access(out, os.W_OK)
    with journal if is_writable else nullcontext():  # a finished folder may be on a read-only disk
        for entry in journal.entries() if path.is_file() else ():
            if tree.files.get(entry["source"]) == (entry["size"], entry["modified_ns"]):
                headers.add(entry["source"], entry["header"])
        left = [source for source in sources if source not in headers]
        for source, header in _headers_of(tree.root, left, run):
            headers.add(source, header)
            if is_writable:
                journal.add({"source": source, **tree.files[source]._asdict(), "header": header})
    return headers


def _headers_of(root: Path, sources: Sequence[str], run: pool.Run) -> Iterator[tuple[str, Header]]:
    """Yield (source, header) as worker processes read them."""
    root = root.absolute()
    with Progress("reading headers", len(sources), unit="files") as progress:
        crashed: list[str] = []
        starts = range(0, len(sources), _FILES_PER_TASK)
        for task, result in run(HeadersTask(root, tuple(sources[n : n + _FILES_PER_TASK])) for n in starts):
            if isinstance(result, InputError):
                crashed += task.sources
                continue
            yield from zip(task.sources, result, strict=True)
            progress.advance(len(task.sources))
        # One of these hung or crashed its reader, and the others were read with it: now each alone.
        for task, result in run(HeadersTask(root, (source,)) for source in crashed):
            header = {"unreadable": str(result)} if isinstance(result, InputError) else result[0]
            yield task.sources[0], header
            progress.advance()
