"""Apply a run to images: scores.csv and anomaly maps from files, folders or DATA folders."""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from mammovae.arguments import AnyPath, Cluster, Rate, Seconds, Workers, checked
from mammovae.config import InputError, UsageError, White
from mammovae.data.dataset import WRITERS, Data
from mammovae.data.index import distinct_names, printable
from mammovae.data.prepare_image import PreparedImage
from mammovae.detection import map_files
from mammovae.detection.score_inputs import ImageFile, list_files, prepare_file
from mammovae.detection.score_rows import COLUMNS, IDENTITY
from mammovae.detection.scorer import Key, ScoredImage, Scorer, Task, identities_of
from mammovae.journal import Journal
from mammovae.models.run import device
from mammovae.parallel import pool
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.parallel.worker import call_safely
from mammovae.report.progress import Progress
from mammovae.report.review_page import SHOWN, ReviewPage
from mammovae.storage import MANIFEST, acquire_lock, check_replaceable, digest, file_hash, write_csv
from mammovae.version import __version__

MIN_FILES_FOR_WORKERS = 8  # fewer files than this are not worth a network in every worker process
PART = 64  # images of a DATA folder that one task scores, or a batch where that is more
_FILES_ON_GPU = 32  # prepared files that wait for each other: an interruption costs them


@checked
def score(  # noqa: PLR0913
    run: AnyPath,
    paths: Annotated[list[AnyPath], Field(min_length=1)],
    out: AnyPath,
    *,
    maps: AnyPath | None = None,
    review: AnyPath | None = None,
    flag: Rate | None = None,
    white: White | None = None,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
    timeout: Seconds | None = None,
) -> pd.DataFrame:
    """Do mammovae score, and return the table.

    Each file is read and prepared by a worker process, which also scores it and writes its map, or by the workers of a
    Dask cluster, which must see the same paths and compute on their CPU. On a GPU, and of fewer than eight files, this
    process scores what its workers prepare, and DATA folders too, many images at a time. Rows are kept in
    .NAME.rows.jsonl beside out, from which the same call resumes after an interruption.

    image_ids are distinct: those of a DATA folder's index, and paths below the folders given without the suffix of an
    image format. Where several would be the same, each keeps its suffix; if that does not tell them apart, its path is
    given as a whole. `mammovae.detection.map_files.map_name` says from an image_id what its maps are called.
    """
    _check_outputs(out, maps, review)
    out.parent.mkdir(parents=True, exist_ok=True)
    scorer = Scorer(run, flag, maps, review is not None, white)
    part_size = max(PART, scorer.detector.batch_size)
    inputs = _Inputs.open(paths, [path for path in (out, maps, review) if path is not None], part_size)
    scorer.folders |= {folder.path.resolve(): folder for folder in inputs.data}
    if not inputs.tasks and not inputs.refused:
        raise _no_image(paths)
    for folder in inputs.data:
        scorer.run.check_data(folder)
    if maps is not None:
        map_files.claim_folder(maps)
    page = ReviewPage(scorer.rows.level, scorer.rows.n_patients)
    with _locked(out), Journal(out.with_name(f".{out.name}.rows.jsonl"), _job_key(scorer, inputs)) as journal:
        done = _finished_keys(journal, review is not None)
        pending = [task for task in inputs.tasks if not done.issuperset(task.keys)]
        with Progress("scoring", sum(len(task.keys) for task in pending), unit="images") as progress:
            for task, images in _run_tasks(scorer, pending, workers, cluster, timeout):
                for image in images:
                    journal.add({"key": image.key, "row": image.row, "suspicion": image.suspicion})
                    if image.shown is not None and image.row is not None:
                        page.add(image.row, image.suspicion, *image.shown)
                progress.advance(len(task.keys))
        by_key = inputs.refused | {tuple(entry["key"]): entry["row"] for entry in journal.entries()}
        keys = [key for key in sorted(by_key) if by_key[key] is not None]
        rows = [row for key in keys if (row := by_key[key]) is not None]
        if not rows:
            journal.delete()
            raise _no_image(paths)
        table = scorer.rows.add_bilateral(pd.DataFrame(rows), [folder for folder, _ in keys])
        table = table.reindex(columns=[*COLUMNS, *(name for name in table if name not in COLUMNS)])
        write_csv(table, out)
        if review is not None:
            _write_review(review, page, rows, out)
        journal.delete()
    return table


def _check_outputs(out: Path, maps: Path | None, review: Path | None) -> None:
    """Refuse, with UsageError, outputs that are one and the same or would replace anything but an earlier result."""
    places = {name: place.resolve() for name, place in (("out", out), ("maps", maps), ("review", review)) if place}
    for (first, one), (second, other) in combinations(places.items(), 2):
        if one == other:
            raise UsageError(f"--{first} and --{second} are both {one}: name two places")
    check_replaceable("out", out, ",".join(IDENTITY))
    if review is not None:
        check_replaceable("review", review, ReviewPage.MARK)
    if maps is not None:
        map_files.check_folder(maps)


def _write_review(path: Path, page: ReviewPage, rows: list[dict[str, Any]], table: Path) -> None:
    for row in rows:
        if "finding" not in row:
            page.refuse(row)
    page.write(path, table.name, len(rows))


def _no_image(paths: list[Path]) -> InputError:
    places = ", ".join(map(str, paths)) or "nothing"
    return InputError(f"there is no image in {places}: name an image or a folder")


@dataclass
class _Inputs:
    """What a call is given: its tasks, and the rows of images that could not be listed or that prepare refused."""

    data: list[Data]
    files: list[ImageFile]
    tasks: list[Task] = field(default_factory=list)
    refused: dict[Key, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, paths: list[Path], outputs: list[Path], part_size: int) -> "_Inputs":
        """Open the DATA folders and list the image files, before any work is done."""
        data: dict[Path, Data] = {}
        others: list[Path] = []
        for path in paths:
            command = map_files.writer(path)
            if command in WRITERS:
                data.setdefault(path.resolve(), Data.open(path))
            elif command in (None, "phantom"):
                others.append(path)
            else:
                raise UsageError(f"{path} was written by mammovae {command}: name images, or a DATA folder")
        inputs = cls(list(data.values()), list_files(others, outputs))
        inputs._add_tasks(part_size)
        return inputs

    def _add_tasks(self, part_size: int) -> None:
        names = [folder.index["image_id"].tolist() for folder in self.data]
        places = [f"{printable(str(folder.path))}/" for folder in self.data]
        full = [(name, f"{place}{name}") for place, part in zip(places, names, strict=True) for name in part]
        full += [(image.name, image.source) for image in self.files]
        short = [name for part in names for name in part] + [image.image_id for image in self.files]
        image_ids = distinct_names(short, lambda number: full[number][0], lambda number: full[number][1])
        start = 0
        for number, folder in enumerate(self.data):
            self._add_data(number, folder, image_ids[start : start + len(folder.index)], part_size)
            start += len(folder.index)
        for number, (image, image_id) in enumerate(zip(self.files, image_ids[start:], strict=True)):
            key = (len(self.data), number)
            if image.problem is None:
                self.tasks.append(Task((key,), (image_id,), image))
            else:
                self.refused[key] = {"image_id": image_id, "source": image.source, "reason": image.problem}

    def _add_data(self, number: int, folder: Data, image_ids: list[str], part_size: int) -> None:
        status = folder.index["status"].to_numpy(object)
        ok, failed = (np.flatnonzero(status == kind).tolist() for kind in ("ok", "failed"))
        for start in range(0, len(ok), part_size):
            rows = ok[start : start + part_size]
            keys = tuple((number, row) for row in rows)
            self.tasks.append(Task(keys, tuple(image_ids[row] for row in rows), folder.path.resolve()))
        frame = folder.index[status == "failed"].assign(image_id=[image_ids[row] for row in failed])
        self.refused |= zip([(number, row) for row in failed], identities_of(frame), strict=True)


def _job_key(scorer: Scorer, inputs: _Inputs) -> str:
    """Return a hash of all that rows depend on: only rows of the same job are resumed from."""
    settings = (__version__, file_hash(scorer.run.path / MANIFEST), scorer.rate, str(scorer.maps), scorer.white)
    images = [(task.image_ids[0], task.place) for task in inputs.tasks if isinstance(task.place, ImageFile)]
    files = [(image_id, str(image.file), image.source, image.stamp) for image_id, image in images]
    return digest(settings, files, [(str(folder.path.resolve()), folder.digest) for folder in inputs.data])


def _finished_keys(journal: Journal, has_review: bool) -> set[Key]:
    """Return the keys of rows that are complete; with a review page, those that it will show are scored again."""
    entries = [(tuple(entry["key"]), entry["row"] or {}, entry["suspicion"]) for entry in journal.entries()]
    ranks = {key: (suspicion, str(row["image_id"])) for key, row, suspicion in entries if "finding" in row}
    shown = heapq.nlargest(SHOWN, ranks, key=ranks.__getitem__) if has_review else []
    return {key for key, _, _ in entries}.difference(shown)


def _run_tasks(
    scorer: Scorer, tasks: list[Task], workers: int | None, cluster: str | None, timeout: float | None
) -> Iterator[tuple[Task, list[ScoredImage]]]:
    """Run tasks on the cluster, or here: DATA folders by all threads of this process, files by worker processes."""
    if cluster is None:
        with retain_freed_memory():
            parts = [(task.place, task) for task in tasks if not isinstance(task.place, ImageFile)]
            for folder, own in groupby(parts, key=itemgetter(0)):
                yield from scorer.score_parts(folder, [task for _, task in own])
        tasks = [task for task in tasks if isinstance(task.place, ImageFile)]
    where = {"workers": workers, "cluster": cluster, "timeout": timeout}
    results = _run_in_workers(scorer, tasks, where)
    for task, result in results:
        if not isinstance(result, InputError):
            yield task, result
        elif isinstance(task.place, ImageFile):
            row = {"image_id": task.image_ids[0], "source": task.place.source, "reason": printable(str(result))}
            yield task, [ScoredImage(task.keys[0], row)]
        else:  # its images were read before: the machine fails, not a file
            raise result


def _run_in_workers(
    scorer: Scorer, tasks: list[Task], where: Mapping[str, Any]
) -> Iterator[tuple[Task, list[ScoredImage] | InputError]]:
    """Score tasks in workers; on a GPU, and of few files, they are prepared there and scored here."""
    together = 0 if where["cluster"] is not None else files_scored_here(len(tasks))
    if not together:
        yield from pool.map_unordered(scorer, tasks, **where)
        return
    by_file, waiting = {task.place: task for task in tasks}, list[tuple[Task, PreparedImage | None]]()
    for image, result in pool.map_unordered(partial(prepare_file, **scorer.preparing), by_file, **where):
        if isinstance(result, InputError):
            yield by_file[image], result
            continue
        waiting.append((by_file[image], result))
        if len(waiting) == together:
            yield from _score_together(scorer, waiting)
            waiting = []
    yield from _score_together(scorer, waiting)


def files_scored_here(count: int) -> int:
    """Return how many of count files this process scores at a time; 0: the workers that prepare them score them."""
    if device().type == "cuda":
        return _FILES_ON_GPU
    # On a CPU one by one, so that a file's row does not depend on what else is scored.
    return 1 if count < MIN_FILES_FOR_WORKERS else 0


def _score_together(
    scorer: Scorer, prepared: list[tuple[Task, PreparedImage | None]]
) -> Iterator[tuple[Task, list[ScoredImage] | InputError]]:
    """Score the images of files in one batch; where that fails, each alone, so that one does not cost the others."""
    result = call_safely(scorer.score_prepared, prepared)
    if not isinstance(result, InputError):
        yield from zip([task for task, _ in prepared], result, strict=True)
    elif len(prepared) == 1:
        yield prepared[0][0], result
    else:
        for one in prepared:
            yield from _score_together(scorer, [one])


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output file; UsageError when another process writes it."""
    path = out.with_name(f".{out.name}.lock")
    lock = acquire_lock(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before its release: a process that waits for it would hold a deleted file
        lock.release()
