"""Turns a raw data set into a DATA folder: images, masks, index, failures, contact sheet, manifest."""

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mammovae.arguments import AnyPath, Cluster, Seconds, Workers, checked
from mammovae.config import InputError, PrepareSettings, SourceKind, UsageError
from mammovae.data import index
from mammovae.data.finalize import finalize
from mammovae.data.listing import HEADERS, Listing, needed_headers, scan
from mammovae.data.prepare_image import RowTask, do_task
from mammovae.data.prepared_rows import PreparedRows
from mammovae.data.sources import SOURCES
from mammovae.imageio.raw_tree import open_raw, raw_file
from mammovae.parallel import pool
from mammovae.report.progress import Progress
from mammovae.storage import MANIFEST, StageFolder


@checked
def prepare(  # noqa: PLR0913
    kind: SourceKind,
    root: AnyPath,
    out: AnyPath,
    settings: PrepareSettings,
    *,
    retry: bool = False,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
    executor: Executor | None = None,
    timeout: Seconds | None = None,
) -> dict[str, Any]:
    """Do mammovae prepare, and return the manifest's facts (counts and so on)."""
    if "healthy" in settings.model_fields_set and not SOURCES[kind].healthy_rules:
        kinds = ", ".join(name for name, source in SOURCES.items() if source.healthy_rules)
        raise UsageError(f"healthy is a rule for {kinds}: {kind} states itself which images are healthy")
    if not root.exists():
        raise InputError(f"there is no folder (or zip archive) {root}: name the one that holds the raw {kind} data")
    places = {"workers": workers, "cluster": cluster, "executor": executor, "timeout": timeout}
    inputs = {"kind": kind, "root": str(root.resolve())}
    was_there, was_begun = out.is_dir(), (out / MANIFEST).is_file()
    work = partial(do_task, size=settings.size, stretch=settings.stretch)
    stage = StageFolder(out, "prepare", settings.model_dump(mode="json"), inputs)
    with pool.open_pool(work, **places) as run, stage:
        with _left_as_found(out, was_there, was_begun):
            tree = scan(root)
            if tree.is_own:
                raise UsageError(f"{root} is a folder that mammovae wrote: name the raw data that it was made from")
        headers = needed_headers(kind, tree, out, run)
        with _left_as_found(out, was_there, was_begun):
            listing = Listing.make(kind, tree, headers, settings).in_order_of(out)
        if stage.done and not retry:
            listing.check_unchanged(out)
            return stage.facts()
        listing.check_unchanged(out, _unused_rows(out) if retry else None)
        if stage.done:
            stage.reopen()
        listing.save(out)
        with PreparedRows(out, listing, settings.size) as rows:
            if retry:
                rows.forget_failed()
            white = _prepare_rows(rows, listing, settings.white, run)
            facts = finalize(out, listing.frame, rows.entries(), rows.images, rows.masks, settings)
            rows.finish()
        facts["notes"] = listing.notes() + facts["notes"]
        stage.finish(phantoms=_is_of_phantoms(listing), white=white, **facts)
        return stage.facts()


@contextmanager
def _left_as_found(out: Path, was_there: bool, was_begun: bool) -> Iterator[None]:
    """Delete what was begun in a folder again when the raw data turn out to be none that can be listed."""
    try:
        yield
    except InputError:
        if not was_begun:
            for name in (HEADERS, MANIFEST, ".lock"):
                (out / name).unlink(missing_ok=True)
            if not was_there:
                out.rmdir()
        raise


def _prepare_rows(rows: PreparedRows, listing: Listing, given_white: int | None, run: pool.Run) -> int | None:
    """Prepare what is not prepared yet; return white, the same for all files that do not state their range."""

    def prepare_some(left: list[int], white: int | None) -> None:
        # A worker elsewhere stands in another folder.
        root, sources = listing.tree.root.absolute(), listing.frame["source"].tolist()
        tasks = (RowTask(row, raw_file(root, sources[row]), white, given_white is not None) for row in left)
        with Progress("preparing", len(left), unit="images") as progress:
            for task, result in run(tasks):
                rows.store(task.row, result, white)
                progress.advance()

    if given_white is None and (sample := rows.sample()):
        prepare_some(sample, None)
    white = given_white or rows.white()
    while left := rows.left(white):
        prepare_some(left, white)
        white = given_white or rows.white()  # a file may have held a greater value than all before
    return rows.white() and white


def _unused_rows(out: Path) -> list[int] | None:
    """Return the rows that failed or were missing when the folder was finished; None where it never was."""
    path = out / "index.parquet"
    return None if not path.is_file() else np.flatnonzero(index.read(path)["status"] != "ok").tolist()


def _is_of_phantoms(listing: Listing) -> bool:
    """Say whether mammovae phantom wrote the raw data, so that no report passes them off as patients."""
    if MANIFEST not in listing.tree.files:
        return False
    try:
        with open_raw(listing.tree.file(MANIFEST)) as file:
            return json.load(file).get("command") == "phantom"
    except (AttributeError, InputError, ValueError):  # another program's
        return False
