"""A table of source images becomes a DATA folder: squares, masks, index, failures, contact sheet, manifest."""

import hashlib
import json
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mammovae.config import InputError, Kind, PrepareSettings, UsageError
from mammovae.data import index, parallel
from mammovae.data.breast import find_breast
from mammovae.data.geometry import Geometry, Grid, NoBreast
from mammovae.data.pose import against_header, pose_convention, with_pose_remarks
from mammovae.data.quality import ENOUGH, QUALITY, measure
from mammovae.data.read import Picture, read
from mammovae.data.reduced import block_means, fraction
from mammovae.data.sources import SOURCES
from mammovae.data.split import assign_splits, duplicates, fill_patients
from mammovae.folders import MANIFEST, Stage, read_json, replacing, write_text
from mammovae.page.progress import Progress

FROM_HEADER = ("study_id", "patient_id", "side", "view", "age", "vendor", "model", "mm_per_pixel")
"""Columns that a file's header may fill where the listing says nothing."""

SHEET_IMAGES = 400
"""The most images that a contact sheet shows; of more, it shows evenly spaced ones."""


@dataclass(frozen=True)
class Prepared:
    """One image, ready: image uint16 (S, S), mask uint8 (S, S), and what its file and its pixels say.

    fields holds index columns; digest is a hash of the source's pixels; chest_wall is "left" or "right" as
    the source is stored; measures are those of data/quality.py.
    """

    image: np.ndarray
    mask: np.ndarray
    geometry: Geometry
    chest_wall: str
    fields: dict[str, Any]
    digest: str
    measures: dict[str, float]


class Task(NamedTuple):
    """A row of the table on its way to a worker."""

    row: int
    path: Path


def prepare_image(path: Path, *, size: int, stretch: bool = False) -> Prepared:
    """Read one file and bring its breast into a square of size pixels, exactly as prepare does for a data set.

    Raises InputError when the file cannot be read or shows no breast.
    """
    # A breast is rarely less than half as long as its image, so that this gives two pixels for each of the square's.
    picture = read(path, enough=max(ENOUGH, 4 * size))
    result = prepare_picture(picture, size=size, stretch=stretch)
    if picture.grid.factor > 1 and not _fine(result.geometry, picture.grid):
        result = prepare_picture(read(path), size=size, stretch=stretch)
    return result


def prepare_picture(picture: Picture, *, size: int, stretch: bool = False) -> Prepared:
    """Do prepare_image for a picture that is read already. Raises InputError when it shows no breast."""
    # The mask and the measures need no more than this, and what all take from the same few pixels costs little.
    factor = fraction(max(picture.pixels.shape), ENOUGH)
    small = picture.pixels if factor == 1 else block_means(picture.pixels, factor)
    grid = picture.grid.coarser(factor)
    try:
        breast = find_breast(small)
    except NoBreast as error:
        # A remark such as "for-processing image" is often why.
        raise InputError("; ".join([*picture.remarks, str(error)])) from error
    geometry = Geometry.fit(breast.mask, breast.chest_wall, size, stretch=stretch, grid=grid)
    pixels, whose = (small, grid) if _fine(geometry, grid) else (picture.pixels, picture.grid)
    fields = {name: picture.header.get(name) for name in FROM_HEADER}
    placed = {name: value for name, value in asdict(geometry).items() if name in index.COLUMNS}
    fields |= placed | {
        "rows": grid.rows,
        "columns": grid.columns,
        "mask_pixels": int(breast.mask.sum()) * grid.factor**2,
        "reason": "; ".join(picture.remarks) or None,
    }
    return Prepared(
        image=geometry.apply(pixels, whose),
        mask=geometry.apply_mask(breast.mask, grid),
        geometry=geometry,
        chest_wall=breast.chest_wall,
        fields=fields,
        digest=hashlib.blake2b(np.ascontiguousarray(small).data, digest_size=16).hexdigest(),
        measures=measure(small, breast.mask, breast.chest_wall),
    )


def _fine(geometry: Geometry, grid: Grid) -> bool:
    """Say whether an image on this grid has two pixels for each of the square's, so that its pixels' edges are lost."""
    return max(geometry.scale_x, geometry.scale_y) * grid.factor <= 0.5


def prepare(
    kind: Kind,
    path: Path | str,
    *,
    out: Path | str,
    workers: int | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Turn a raw data set into the DATA folder out, and return its manifest's facts (counts and so on).

    settings are those of PrepareSettings (size=128, side="R"). Works on all cores, or on any
    concurrent.futures executor. An interrupted run is completed by the same call; a file that cannot be used becomes
    a row with status "failed" and a line in failures.csv.
    Raises InputError when the raw folder is not what kind says or holds no image that matches.
    """
    chosen = PrepareSettings.of(settings)
    root, out = Path(path), Path(out)
    if kind not in SOURCES:
        raise UsageError(f"there is no kind of data {kind!r}: choose one of {', '.join(SOURCES)}")
    if kind != "vindr" and "healthy" in settings:
        raise UsageError(f"healthy is a rule for vindr: {kind} says itself who is healthy")
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: name the folder that holds the raw {kind} data")
    frame = _listing(kind, root, chosen)
    if frame.empty:
        raise InputError(f"no image in {root} matches: check --side, --view and the kind of data")
    said = frame[["image_id", "source", "split", "healthy", "status", "findings"]].to_json(orient="records")
    inputs = {"kind": kind, "root": str(root.resolve()), "listing": hashlib.sha256(said.encode()).hexdigest()}
    with Stage(out, "prepare", chosen.model_dump(), inputs) as stage:
        if not stage.done:
            slots = _Slots(out, len(frame), chosen.size)
            done = slots.journal()
            tasks = [
                Task(row, root / source)
                for row, (source, status) in enumerate(zip(frame["source"], frame["status"], strict=True))
                if status == "ok" and row not in done
            ]
            work = partial(prepare_task, size=chosen.size, stretch=chosen.stretch)
            with Progress("preparing", len(tasks), unit="images") as progress:
                for task, result in parallel.run(work, tasks, workers=workers, executor=executor):
                    done[task.row] = slots.keep(task.row, result)
                    progress.advance(1)
            stage.finish(phantoms=_is_phantom(root), **_complete(out, frame, done, slots, chosen))
            slots.forget()
        return stage.facts()


def _is_phantom(root: Path) -> bool:
    """Say whether mammovae phantom wrote the raw tree, so that no report passes it off as patients."""
    return (root / MANIFEST).is_file() and read_json(root / MANIFEST).get("command") == "phantom"


def _listing(kind: str, root: Path, settings: PrepareSettings) -> pd.DataFrame:
    source = SOURCES[kind]
    frame = source(root, healthy=settings.healthy) if kind == "vindr" else source(root)
    # Sources have read what headers say, so what is null here is unknown, and no match.
    for name in ("side", "view"):
        wanted = getattr(settings, name)
        if wanted is not None:
            frame = frame[(frame[name] == wanted).fillna(False)]
    return frame.head(settings.limit or len(frame)).reset_index(drop=True)


def prepare_task(task: Task, *, size: int, stretch: bool) -> Prepared:
    """Do prepare_image for a task: what worker processes are given."""
    return prepare_image(task.path, size=size, stretch=stretch)


class _Slots:
    """The growing arrays and the journal of what is in them; the parent process is their only writer."""

    def __init__(self, out: Path, count: int, size: int) -> None:
        self._out = out
        self._journal = out / ".rows.jsonl"
        self.images = self._array("images", np.uint16, (count, size, size))
        self.masks = self._array("masks", np.uint8, (count, size, size))

    def _array(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path = self._out / f".{name}.partial.npy"
        finished = self._out / f"{name}.npy"
        if finished.exists():
            finished.rename(path)
        if not path.exists():
            self._journal.unlink(missing_ok=True)
            with replacing(path) as partial_path:
                np.lib.format.open_memmap(partial_path, mode="w+", dtype=dtype, shape=shape)
        return np.lib.format.open_memmap(path, mode="r+")

    def journal(self) -> dict[int, dict]:
        """Return the rows that an interrupted run finished; a line cut off by the interruption is dropped."""
        done: dict[int, dict] = {}
        if self._journal.exists():
            text = self._journal.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            write_text(self._journal, whole)
            done = {entry["row"]: entry for entry in map(json.loads, whole.splitlines())}
        return done

    def keep(self, row: int, result: Prepared | InputError) -> dict:
        """Store one result: pixels first, then the journal's line that says they are there."""
        if isinstance(result, InputError):
            entry = {"row": row, "fields": {"status": "failed", "reason": str(result)}}
        else:
            self.images[row] = result.image
            self.masks[row] = result.mask
            entry = {
                "row": row,
                "fields": result.fields,
                "chest_wall": result.chest_wall,
                "digest": result.digest,
                "measures": result.measures,
            }
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return entry

    def finish(self) -> None:
        """Give the arrays their names."""
        for name, array in (("images", self.images), ("masks", self.masks)):
            array.flush()
            (self._out / f".{name}.partial.npy").rename(self._out / f"{name}.npy")

    def forget(self) -> None:
        """Drop the journal, once the index holds what it said and the manifest says done."""
        self._journal.unlink(missing_ok=True)


def _complete(
    out: Path, frame: pd.DataFrame, done: dict[int, dict], slots: _Slots, settings: PrepareSettings
) -> dict[str, Any]:
    """Write everything that needs all rows: index, failures, contact sheet; return the manifest's facts."""
    frame = _filled(frame, done)
    frame, by_patient = fill_patients(frame)
    frame = assign_splits(frame, settings.seed)
    ok = frame["status"] == "ok"
    frame.loc[~ok, "split"] = "unused"
    walls = {row: entry["chest_wall"] for row, entry in done.items() if "chest_wall" in entry}
    convention = pose_convention(frame, walls)
    frame = with_pose_remarks(frame, walls, convention)
    frame, copies = _without_copies(frame, done)
    failures = frame.loc[frame["status"] == "failed", ["image_id", "source", "reason"]]
    with replacing(out / "failures.csv") as partial_path:
        failures.to_csv(partial_path, index=False)
    _contact_sheet(out, frame, slots)
    slots.finish()
    with replacing(out / QUALITY) as partial_path:
        _measures(frame, done, convention).to_parquet(partial_path, index=False)
    index.write(frame, out / "index.parquet")
    return {
        "size": settings.size,
        "by_patient": by_patient,
        "stored_as": convention,
        "duplicates": copies,
        "counts": counts(frame),
    }


def _filled(frame: pd.DataFrame, done: dict[int, dict]) -> pd.DataFrame:
    """Lay what the files say under what the listing says; a contradiction becomes a remark."""
    rows = frame.to_dict("records")
    for number, row in enumerate(rows):
        remarks = [] if pd.isna(row["reason"]) else [row["reason"]]
        fields = done.get(number, {}).get("fields", {})
        for name, value in fields.items():
            if name == "reason":
                remarks += [value] if value else []
            elif name in ("side", "view") and value and not pd.isna(row[name]) and row[name] != value:
                remarks.append(f"the list says {name} {row[name]}, the file's header {value}")
            elif name not in FROM_HEADER or pd.isna(row[name]):
                row[name] = value
        pixels, mm = row.pop("mask_pixels", None), row["mm_per_pixel"]
        row["breast_area"] = None if pixels is None or pd.isna(mm) else pixels * mm**2
        row["reason"] = "; ".join(remarks) or None
    clean = [{name: (None if _is_null(value) else value) for name, value in row.items()} for row in rows]
    return index.table(clean)


def _is_null(value: Any) -> bool:
    return not isinstance(value, list) and bool(pd.isna(value))


def _measures(frame: pd.DataFrame, done: dict[int, dict], convention: str | None) -> pd.DataFrame:
    """Return what was measured, a row an image, empty where it failed; against_header is 1 where the pose is wrong."""
    rows: list[dict[str, float]] = [{} for _ in range(len(frame))]
    for row, entry in done.items():
        if "measures" in entry:
            wrong = against_header(frame["side"].iloc[row], entry["chest_wall"], convention)
            rows[row] = entry["measures"] | {"against_header": float(wrong)}
    return pd.DataFrame(rows)


def _without_copies(frame: pd.DataFrame, done: dict[int, dict]) -> tuple[pd.DataFrame, list[list[str]]]:
    """Keep one image of each group with the same pixels, in test where one of them is; the others are unused.

    Returns the groups with the kept image first.
    """
    digests = [done.get(row, {}).get("digest") for row in range(len(frame))]
    groups = duplicates(frame["image_id"], digests)
    frame = frame.set_index("image_id", drop=False)
    rank = {"test": 0, "unused": 2}
    for group in groups:
        group.sort(key=lambda name: rank.get(str(frame.at[name, "split"]), 1))
        differs = frame.loc[group, "healthy"].nunique(dropna=False) > 1
        for other in group[1:]:
            frame.at[other, "split"] = "unused"
            old = frame.at[other, "reason"]
            remark = f"the same pixels as {group[0]}" + (", with another health" if differs else "")
            frame.at[other, "reason"] = remark if pd.isna(old) else f"{old}; {remark}"
    return frame.reset_index(drop=True), groups


def _contact_sheet(out: Path, frame: pd.DataFrame, slots: _Slots) -> None:
    from mammovae.page.pictures import contact_sheet

    rows = np.flatnonzero(frame["status"] == "ok")
    if not len(rows):
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_IMAGES).round().astype(int))]
    captions = [
        f"{frame['image_id'].iloc[row][:14]} {'' if pd.isna(frame['side'].iloc[row]) else frame['side'].iloc[row]}"
        for row in rows
    ]
    with replacing(out / "contact_sheet.png") as partial_path:
        contact_sheet(slots.images[rows], slots.masks[rows], captions).save(partial_path)


def counts(frame: pd.DataFrame) -> dict[str, Any]:
    """Count rows, patients, health and splits of an index: what a prepare's last lines and a manifest say."""
    ok = frame[frame["status"] == "ok"]
    return {
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        **{status: int((frame["status"] == status).sum()) for status in index.ALLOWED["status"]},
        "healthy": int((ok["healthy"] == True).sum()),  # noqa: E712 - nullable column
        "finding": int((ok["healthy"] == False).sum()),  # noqa: E712 - nullable column
        "unknown": int(ok["healthy"].isna().sum()),
        "remarked": int(ok["reason"].notna().sum()),
        "splits": {name: int((ok["split"] == name).sum()) for name in index.ALLOWED["split"]},
    }
