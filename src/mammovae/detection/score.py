"""Apply a run to images: scores.csv and anomaly maps from files, folders or DATA folders."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mammovae.config import InputError, UsageError
from mammovae.data.dataset import WRITERS, Data
from mammovae.data.laterality import against_header
from mammovae.data.prepare import prepare_image
from mammovae.detection.detector import Detection, Detector
from mammovae.detection.score_rows import COLUMNS, IDENTITY, PreparedImages, ScoreRowBuilder
from mammovae.imageio.read import image_files
from mammovae.models.run import Run
from mammovae.parallel import pool
from mammovae.parallel.allocator import retain_freed_memory
from mammovae.report.images import save_overlay
from mammovae.report.progress import Progress
from mammovae.report.review_page import SHOWN, ReviewPage
from mammovae.storage import MANIFEST, Journal, acquire_lock, atomic_write, digest, file_hash, read_json
from mammovae.version import __version__

MIN_FILES_FOR_WORKERS = 8  # fewer files than this are not worth worker processes
PART = 64  # images of a DATA folder that one task scores
HEALTHY_LEVEL = 8192  # the value, in maps over source pixels, of the 99.9th percentile of healthy pixels

Key = tuple[int, int]  # a row's place in the table: number of the DATA folder (files follow the last), position there


def score(  # noqa: PLR0913
    run: Path,
    paths: list[Path],
    out: Path,
    *,
    maps: Path | None = None,
    review: Path | None = None,
    flag: float | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    timeout: float | None = None,
) -> pd.DataFrame:
    """Do mammovae score, and return the table.

    Each file is read, prepared, scored and its map written by a worker process (fewer than eight files, and workers=1,
    in this process), or by the workers of a Dask cluster, which must see the same paths and compute on their CPU. DATA
    folders are scored 16 images at a time, on the first GPU where there is one. Rows are kept in .NAME.rows.jsonl
    beside out, from which the same call resumes after an interruption.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the CSV file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    scorer = _Scorer(run, flag, maps, review is not None)
    data, files = _open_inputs(paths)
    tasks, refused = _list_tasks(data, files)
    if not tasks and not refused:
        places = ", ".join(map(str, paths)) or "nothing"
        raise InputError(f"there is no image in {places}: name an image or a folder")
    for folder in data:
        folder.check_prepared_as(scorer.run.manifest["prepared"])
    page = ReviewPage(scorer.rows.level)
    with _locked(out), Journal(out.with_name(f".{out.name}.rows.jsonl"), _job_key(scorer, data, files)) as journal:
        done = _finished_keys(journal, review is not None)
        pending = [task for task in tasks if not done.issuperset(task.keys)]
        with Progress("scoring", sum(len(task.keys) for task in pending), unit="images") as progress:
            for task, images in _run_tasks(scorer, pending, workers, cluster, timeout):
                for image in images:
                    journal.add({"key": image.key, "row": image.row, "suspicion": image.suspicion})
                    if image.shown is not None:
                        page.add(image.row, image.suspicion, *image.shown)
                progress.advance(len(task.keys))
        by_key = refused | {tuple(entry["key"]): entry["row"] for entry in journal.entries()}
        rows = [by_key[key] for key in sorted(by_key)]
        table = scorer.rows.add_bilateral(pd.DataFrame(rows))
        table = table.reindex(columns=[*COLUMNS, *(name for name in table if name not in COLUMNS)])
        with atomic_write(out) as partial:
            table.to_csv(partial, index=False)
        if review is not None:
            for row in rows:
                if "finding" not in row:
                    page.refuse(row)
            page.write(review, out.name, len(table))
        journal.delete()
    return table


class _Task(NamedTuple):
    """One image file, or images of the DATA folder at path, which have no image_id here."""

    keys: tuple[Key, ...]
    path: Path
    image_id: str | None = None
    source: str = ""


class _ScoredImage(NamedTuple):
    """The result for one image, with its prepared image and map where the review page needs them."""

    key: Key
    row: dict[str, Any]
    suspicion: float = 0.0
    shown: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class _Scorer:
    """Scores tasks in any process: it is pickled as the run's path, and opens the run where it arrives."""

    path: Path
    rate: float | None
    maps: Path | None
    has_review: bool

    def __post_init__(self) -> None:
        self.run = Run.open(self.path)
        self.rows, self.detector = ScoreRowBuilder(self.run, self.rate), Detector(self.run)
        self._data: dict[Path, Data] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle absolute paths: a worker elsewhere has another working directory."""
        maps = None if self.maps is None else self.maps.absolute()
        return _Scorer, (self.path.absolute(), self.rate, maps, self.has_review)

    def __call__(self, task: _Task) -> list[_ScoredImage]:
        if task.image_id is not None:
            return self._score_file(task)
        if task.path not in self._data:
            self._data[task.path] = Data.open(task.path)
        return self._score_data(task, self._data[task.path])

    def _score_file(self, task: _Task) -> list[_ScoredImage]:
        settings = self.run.manifest["prepared"]
        result = prepare_image(task.path, size=settings["size"], stretch=settings["stretch"])
        identity = {"image_id": task.image_id, "source": task.source}
        identity |= {key: result.fields.get(key) for key in ("patient_id", "side", "view", "reason")}
        is_wrong = against_header(identity["side"], result.chest_wall, self.rows.convention)
        measures = result.measurements | {"against_header": float(is_wrong)}
        shape = (result.fields["rows"], result.fields["columns"])
        images, masks = result.image[None], result.mask[None]
        prepared = PreparedImages(images, masks, [identity], [measures], [result.geometry], [shape])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # A file's scores are the same bytes in any process and beside any other load.
        try:
            detection = self.detector.detect(images, masks)
        finally:
            torch.set_num_threads(threads)
        return self._scored_images(task.keys, prepared, detection)

    def _score_data(self, task: _Task, data: Data) -> list[_ScoredImage]:
        positions = np.array([position for _, position in task.keys])
        frame = data.index.iloc[positions]
        measures = data.measurements.iloc[positions].to_dict("records") if self.rows.quality else [{}] * len(positions)
        shapes = list(zip(frame["rows"].astype(int), frame["columns"].astype(int), strict=True))
        images, masks, geometries = data.images[positions], data.masks[positions], data.geometries(positions)
        prepared = PreparedImages(images, masks, _identities(frame), measures, geometries, shapes)
        parts = [detection for _, detection in self.detector.detect_batches(data, positions)]
        scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
        fused_map = np.concatenate([part.fused_map for part in parts])
        return self._scored_images(task.keys, prepared, Detection(scores, {}, fused_map))

    def _scored_images(self, keys: Sequence[Key], prepared: PreparedImages, detection: Detection) -> list[_ScoredImage]:
        scored = []
        for number, (row, suspicion) in enumerate(self.rows.rows(prepared, detection)):
            image, anomaly_map = prepared.images[number], detection.fused_map[number]
            if self.maps is not None:
                stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(row["image_id"]))
                with atomic_write(self.maps / f"{stem}.png") as partial:
                    save_overlay(image, anomaly_map, self.rows.level, partial)
                ratio = prepared.geometries[number].size // len(anomaly_map)
                enlarged = np.kron(anomaly_map, np.ones((ratio, ratio), np.float32))
                restored = prepared.geometries[number].restore(enlarged, prepared.shapes[number])
                stored = np.clip(restored / self.rows.level * HEALTHY_LEVEL, 0, 65535).astype(np.uint16)
                with atomic_write(self.maps / f"{stem}.map.png") as partial:
                    Image.fromarray(stored).save(partial)
            shown = (np.array(image), anomaly_map) if self.has_review else None
            scored.append(_ScoredImage(keys[number], row, suspicion, shown))
        return scored


def _open_inputs(paths: list[Path]) -> tuple[list[Data], dict[str, Path]]:
    """Open the DATA folders and list the image files by image_id, before any work is done."""
    data: list[Data] = []
    files: list[tuple[Path, Path]] = []
    for path in paths:
        if (path / MANIFEST).is_file() and read_json(path / MANIFEST).get("command") in WRITERS:
            data.append(Data.open(path))
        elif path.is_dir():
            files += [(file, file.relative_to(path).with_suffix("")) for file in image_files(path)]
        elif path.exists():
            files.append((path, Path(path.stem)))
        else:
            raise UsageError(f"there is no file or folder {path}: check the path")
    counts = Counter(name for _, name in files)
    return data, {(name if counts[name] == 1 else file).as_posix(): file for file, name in files}


def _list_tasks(data: list[Data], files: dict[str, Path]) -> tuple[list[_Task], dict[Key, dict[str, Any]]]:
    """Return the tasks, and the rows of images that prepare refused."""
    tasks: list[_Task] = []
    refused: dict[Key, dict[str, Any]] = {}
    for number, folder in enumerate(data):
        status = folder.index["status"].to_numpy(object)
        ok, failed = ([(number, int(row)) for row in np.flatnonzero(status == kind)] for kind in ("ok", "failed"))
        parts = [tuple(ok[start : start + PART]) for start in range(0, len(ok), PART)]
        tasks += [_Task(keys, folder.path.resolve()) for keys in parts]
        refused |= zip(failed, _identities(folder.index[status == "failed"]), strict=True)
    for number, (image_id, path) in enumerate(files.items()):
        tasks.append(_Task(((len(data), number),), path.absolute(), image_id, str(path)))
    return tasks, refused


def _job_key(scorer: _Scorer, data: list[Data], files: dict[str, Path]) -> str:
    """Return a hash of all that rows depend on: only rows of the same job are resumed from."""
    settings = (__version__, file_hash(scorer.run.path / MANIFEST), scorer.rate, str(scorer.maps))
    stamps = [(image_id, str(path), *_stamp(path)) for image_id, path in files.items()]
    return digest(settings, stamps, [(str(folder.path.resolve()), folder.digest) for folder in data])


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change; zeros for one that is gone, which becomes a row with that reason."""
    with suppress(OSError):
        return (status := path.stat()).st_size, status.st_mtime_ns
    return 0, 0


def _identities(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first columns of scores.csv for rows of the index, and the warning on each; null is None."""
    names = [*IDENTITY, "reason"]
    rows = frame[names].itertuples(index=False, name=None)
    return [{name: None if pd.isna(value) else value for name, value in zip(names, row, strict=True)} for row in rows]


def _finished_keys(journal: Journal, has_review: bool) -> set[Key]:
    """Return the keys of rows that are complete; with a review page, those that it will show are scored again."""
    entries = [(tuple(entry["key"]), entry["row"], entry["suspicion"]) for entry in journal.entries()]
    ranks = {key: (suspicion, str(row["image_id"])) for key, row, suspicion in entries if "finding" in row}
    shown = heapq.nlargest(SHOWN, ranks, key=ranks.__getitem__) if has_review else []
    return {key for key, _, _ in entries}.difference(shown)


def _run_tasks(
    scorer: _Scorer, tasks: list[_Task], workers: int | None, cluster: str | None, timeout: float | None
) -> Iterator[tuple[_Task, list[_ScoredImage]]]:
    """Run tasks on the cluster, or here: DATA folders and few files by all threads of this process."""
    if cluster is None:
        with retain_freed_memory():
            for task in tasks:
                if task.image_id is None:
                    yield task, scorer(task)
        tasks = [task for task in tasks if task.image_id is not None]
        if len(tasks) < MIN_FILES_FOR_WORKERS and timeout is None:
            workers = workers or 1
    for task, result in pool.map_unordered(scorer, tasks, workers=workers, cluster=cluster, timeout=timeout):
        if not isinstance(result, InputError):
            yield task, result
        elif task.image_id is None:  # its images were read before: the machine fails, not a file
            raise result
        else:
            row = {"image_id": task.image_id, "source": task.source, "reason": str(result)}
            yield task, [_ScoredImage(task.keys[0], row)]


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
