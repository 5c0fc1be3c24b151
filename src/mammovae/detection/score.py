"""A run applied to images: scores.csv and map pictures from files, folders or a DATA folder."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mammovae.config import InputError, UsageError
from mammovae.data.dataset import WRITERS, Data
from mammovae.data.geometry import Geometry
from mammovae.data.laterality import against_header
from mammovae.data.prepare import prepare_image
from mammovae.detection.detector import Detector
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

MIN_FILES_FOR_WORKERS = 8
"""Fewer files than this are not worth worker processes."""
BATCH, PART = 16, 64
"""Images of a DATA folder that a network is given at once, and that are judged and written together."""
HEALTHY_LEVEL = 8192
"""The value, in maps over source pixels, of what one healthy pixel in a thousand exceeds."""

Key = tuple[int, int]
"""The place of a row in the table: which DATA folder, or after them the files; and the position there."""


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

    A file is read, prepared, scored and drawn in one go by a worker process (fewer than eight files, and workers=1, are
    done in this process), or by the workers of a Dask cluster, which must see the same paths and compute on their CPU.
    Images of DATA folders are scored 16 at a time, on the first GPU where there is one. Rows come as they are ready to
    .NAME.rows.jsonl beside out, from which the same call resumes after an interruption.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the CSV file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    scorer = _Scorer(run, flag, maps, review is not None)
    opened, judge = scorer.run, scorer.judge
    data, files = _gather(paths)
    for one in data:
        one.check_prepared_as(opened.manifest["prepared"])
    tasks, refused = _tasks(data, files)
    if not tasks and not refused:
        raise InputError(f"there is no image in {', '.join(map(str, paths)) or 'nothing'}: name an image or a folder")
    wanted = _wanted(opened, data, files, scorer)
    with _alone(out), Journal(out.with_name(f".{out.name}.rows.jsonl"), wanted) as journal:
        done, sheet = _resumed(journal, review is not None), None if review is None else ReviewPage(judge.level)
        left = [task for task in tasks if not done.issuperset(task.keys)]
        with Progress("scoring", sum(len(task.keys) for task in left), unit="images") as progress:
            for task, answers in _run(scorer, left, workers, cluster, timeout):
                if isinstance(answers, InputError):
                    answers = [_refusal(task, key, answers) for key in task.keys]
                for answer in answers:
                    journal.add({"key": answer.key, "row": answer.row, "suspicion": answer.suspicion})
                    if sheet is not None and answer.picture is not None:
                        sheet.add(answer.row, answer.suspicion, *answer.picture)
                progress.advance(len(task.keys))
        rows = refused | {tuple(entry["key"]): entry["row"] for entry in journal.entries()}
        table = judge.paired(pd.DataFrame([rows[key] for key in sorted(rows)]))
        table = table.reindex(columns=[*COLUMNS, *(name for name in table if name not in COLUMNS)])
        with atomic_write(out) as partial_path:
            table.to_csv(partial_path, index=False)
        if review is not None and sheet is not None:
            for key in sorted(rows):
                if "finding" not in rows[key]:
                    sheet.refuse(rows[key])
            sheet.write(review, out.name, len(table))
        journal.delete()
    return table


class _File(NamedTuple):
    """One file on its way to a worker."""

    keys: tuple[Key]
    name: str
    source: str
    path: Path


class _Part(NamedTuple):
    """Some images of a DATA folder on their way to a worker."""

    keys: tuple[Key, ...]
    path: Path


class _Answer(NamedTuple):
    """What became of one image; picture is its square and map where they will be shown."""

    key: Key
    row: dict[str, Any]
    suspicion: float = 0.0
    picture: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class _Scorer:
    """Scores tasks wherever it is sent: what is sent is the run's path, and the run is opened where it arrives."""

    path: Path
    rate: float | None
    maps: Path | None
    pictures: bool

    def __post_init__(self) -> None:
        self.run = Run.open(self.path)
        self.judge, self.detector = ScoreRowBuilder(self.run, self.rate), Detector(self.run)
        self._data: dict[Path, Data] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker elsewhere stands in another folder.
        maps = None if self.maps is None else self.maps.absolute()
        return _Scorer, (self.path.absolute(), self.rate, maps, self.pictures)

    def __call__(self, task: _File | _Part) -> list[_Answer]:
        if isinstance(task, _File):
            return self._file(task)
        if task.path not in self._data:
            self._data[task.path] = Data.open(task.path)
        return self._part(task, self._data[task.path])

    def _file(self, task: _File) -> list[_Answer]:
        prepared = self.run.manifest["prepared"]
        result = prepare_image(task.path, size=prepared["size"], stretch=prepared["stretch"])
        identity = {"image_id": task.name, "source": task.source}
        identity |= {key: result.fields.get(key) for key in ("patient_id", "side", "view", "reason")}
        wrong = against_header(identity["side"], result.chest_wall, self.judge.convention)
        measures = result.measurements | {"against_header": float(wrong)}
        squares = PreparedImages(result.image[None], result.mask[None], [identity], [measures], [result.geometry])
        shape = (result.fields["rows"], result.fields["columns"])
        with _one_thread():  # so that a file's scores are the same bytes wherever and beside whatever it is scored
            scores, _, whole = self.detector.squares(squares.images, squares.masks)
        return self._answers(task.keys, squares, scores, whole, [shape])

    def _part(self, task: _Part, data: Data) -> list[_Answer]:
        positions = np.array([position for _, position in task.keys])
        found = list(self.detector.data(data, positions, BATCH))
        scores = {name: np.concatenate([part[name] for _, part, _, _ in found]) for name in found[0][1]}
        whole = np.concatenate([maps for *_, maps in found])
        frame = data.index.iloc[positions]
        identities = _identities(frame)
        squares = PreparedImages(
            data.images[positions],
            data.masks[positions],
            identities,
            data.measurements.iloc[positions].to_dict("records") if self.judge.quality else [{}] * len(positions),
            data.geometries(positions),
        )
        shapes = list(zip(frame["rows"].astype(int), frame["columns"].astype(int), strict=True))
        return self._answers(task.keys, squares, scores, whole, shapes)

    def _answers(
        self,
        keys: Sequence[Key],
        squares: PreparedImages,
        scores: dict[str, np.ndarray],
        maps: np.ndarray,
        shapes: Sequence[tuple[int, int]],
    ) -> list[_Answer]:
        answers = []
        for number, (row, suspicion) in enumerate(self.judge.rows(squares, scores, maps)):
            image, map, geometry = squares.images[number], maps[number], squares.geometries[number]
            if self.maps is not None:
                _draw(str(row["image_id"]), image, map, geometry, shapes[number], self.maps, self.judge.level)
            picture = (np.array(image), map) if self.pictures else None
            answers.append(_Answer(keys[number], row, suspicion, picture))
        return answers


def _gather(paths: list[Path]) -> tuple[list[Data], dict[str, Path]]:
    """Open the DATA folders and list the image files by image_id, before any work is done."""
    data: list[Data] = []
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if (path / MANIFEST).is_file() and read_json(path / MANIFEST).get("command") in WRITERS:
            data.append(Data.open(path))
        elif path.is_dir():
            found += [(file, file.relative_to(path).with_suffix("")) for file in image_files(path)]
        elif path.exists():
            found.append((path, Path(path.stem)))
        else:
            raise UsageError(f"there is no file or folder {path}: check the path")
    times = Counter(name for _, name in found)
    return data, {(name if times[name] == 1 else file).as_posix(): file for file, name in found}


def _tasks(data: list[Data], files: dict[str, Path]) -> tuple[list[_File | _Part], dict[Key, dict[str, Any]]]:
    """Return the work, and the rows of images that prepare has refused already."""
    tasks: list[_File | _Part] = []
    refused: dict[Key, dict[str, Any]] = {}
    for place, one in enumerate(data):
        status = one.index["status"].to_numpy(object)
        ok = np.flatnonzero(status == "ok")
        for start in range(0, len(ok), PART):
            keys = tuple((place, int(position)) for position in ok[start : start + PART])
            tasks.append(_Part(keys, one.path.resolve()))
        failed = np.flatnonzero(status == "failed")
        for position, row in zip(failed, _identities(one.index.iloc[failed]), strict=True):
            refused[place, int(position)] = row
    tasks += [
        _File(((len(data), n),), name, str(path), path.absolute()) for n, (name, path) in enumerate(files.items())
    ]
    return tasks, refused


def _identities(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return of rows of the index what scores.csv begins with, and the remark on each; null is None."""
    names = [*IDENTITY, "reason"]
    rows = frame[names].itertuples(index=False, name=None)
    return [{name: None if pd.isna(value) else value for name, value in zip(names, row, strict=True)} for row in rows]


def _wanted(run: Run, data: list[Data], files: dict[str, Path], scorer: _Scorer) -> str:
    """Return a name for what is asked for: only rows of the very same are gone on from."""
    asked = (__version__, file_hash(run.path / MANIFEST), scorer.rate, str(scorer.maps))
    told = [(name, str(path), *_stamp(path)) for name, path in files.items()]
    return digest(asked, told, [(str(one.path.resolve()), one.digest) for one in data])


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change; one that is gone will be a row with that reason."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _resumed(journal: Journal, pictures: bool) -> set[Key]:
    """Return the keys of rows that need no more work; with pictures, those that will be shown do."""
    done: set[Key] = set()
    shown: dict[Key, tuple[float, str]] = {}
    for entry in journal.entries():
        key, row = tuple(entry["key"]), entry["row"]
        done.add(key)
        if pictures and "finding" in row:
            shown[key] = (entry["suspicion"], str(row["image_id"]))
    return done.difference(heapq.nlargest(SHOWN, shown, key=shown.__getitem__))


def _run(
    scorer: _Scorer,
    tasks: list[_File | _Part],
    workers: int | None,
    cluster: str | None,
    timeout: float | None,
) -> Iterator[tuple[_File | _Part, list[_Answer] | InputError]]:
    """Do the work; here, squares of DATA folders are scored by all threads in this process, and so are few files."""
    if cluster is not None:
        yield from pool.map_unordered(scorer, tasks, workers=workers, cluster=cluster, timeout=timeout)
        return
    files = [task for task in tasks if isinstance(task, _File)]
    with retain_freed_memory():
        for task in tasks:
            if isinstance(task, _Part):
                yield task, scorer(task)
    few = len(files) < MIN_FILES_FOR_WORKERS and workers is None and timeout is None
    yield from pool.map_unordered(scorer, files, workers=1 if few else workers, timeout=timeout)


def _refusal(task: _File | _Part, key: Key, error: InputError) -> _Answer:
    if isinstance(task, _Part):  # its images were read once: what fails now is the machine
        raise error
    return _Answer(key, {"image_id": task.name, "source": task.source, "reason": str(error)})


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of an output file; UsageError when another process writes it."""
    path = out.with_name(f".{out.name}.lock")
    lock = acquire_lock(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is free: who waits for this one would hold a file that is gone
        lock.release()


def _draw(
    image_id: str,
    image: np.ndarray,
    map: np.ndarray,
    geometry: Geometry,
    shape: tuple[int, int],
    folder: Path,
    level: float,
) -> None:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in image_id)
    with atomic_write(folder / f"{name}.png") as partial_path:
        save_overlay(image, map, level, partial_path)
    ratio = geometry.size // len(map)
    whole = geometry.restore(np.kron(map, np.ones((ratio, ratio), np.float32)), shape)
    with atomic_write(folder / f"{name}.map.png") as partial_path:
        Image.fromarray(np.clip(whole / level * HEALTHY_LEVEL, 0, 65535).astype(np.uint16)).save(partial_path)
