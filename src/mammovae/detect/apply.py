"""A run applied to images: scores.csv and map pictures from files, folders or a DATA folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import InputError, UsageError
from mammovae.data import parallel
from mammovae.data.dataset import Data
from mammovae.data.prepare import Prepared, Task, prepare_image
from mammovae.data.read import image_files
from mammovae.detect.calibrate import Calibration
from mammovae.detect.detector import FINDING, Detector
from mammovae.folders import MANIFEST, read_json, replacing
from mammovae.model.run import Run
from mammovae.page.progress import Progress

IDENTITY = ["image_id", "source", "patient_id", "side", "view"]


@dataclass(frozen=True)
class Scored:
    """One image with its raw scores and its smoothed map (s, s) in nats, ready to be written."""

    identity: dict[str, Any]
    scores: dict[str, float]
    image: np.ndarray
    map: np.ndarray


def score(
    run: Path | str,
    paths: Sequence[Path | str] | Path | str,
    *,
    out: Path | str,
    maps: Path | str | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Score images and write one row each to out; return the table.

    paths: image files, folders of them, or DATA folders. finding is the reconstruction loss (nats, higher =
    further from healthy), finding_percentile its place among the run's healthy calibration images, finding_p the
    conformal p-value. An image that cannot be used is a row with a reason and no score. With maps, a folder, each
    image's map is drawn there on one fixed scale. Raises InputError when a path does not exist.
    """
    from mammovae.page.pictures import save_overlay

    opened = Run.open(run)
    detector = Detector(opened)
    calibration = Calibration(pd.read_parquet(opened.path / "calibration.parquet")[FINDING].to_numpy())
    listed = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for place, path in enumerate(listed):
        for number, scored in _scored(path, detector, opened, workers):
            if isinstance(scored, dict):
                rows[place, number] = scored
                continue
            rows[place, number] = scored.identity | {"finding": scored.scores[FINDING]} | scored.scores
            if maps is not None:
                name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(scored.identity["image_id"]))
                with replacing(Path(maps) / f"{name}.png") as partial_path:
                    save_overlay(scored.image, scored.map, opened.manifest["map_scale"], partial_path)
    if not rows:
        raise InputError(f"there is no image in {', '.join(map(str, listed))}")
    table = _table([rows[key] for key in sorted(rows)], calibration)
    with replacing(Path(out)) as partial_path:
        table.to_csv(partial_path, index=False)
    return table


def _table(rows: list[dict[str, Any]], calibration: Calibration) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    finding = table["finding"] if "finding" in table else pd.Series(np.nan, index=table.index)
    known = finding.notna()
    table["finding"] = finding
    table["finding_percentile"] = pd.Series(calibration.percentile(finding[known].to_numpy()), index=table.index[known])
    table["finding_p"] = pd.Series(calibration.p_value(finding[known].to_numpy()), index=table.index[known])
    first = [*IDENTITY, "finding", "finding_percentile", "finding_p", "reason"]
    return table.reindex(columns=[*first, *(name for name in table if name not in first)])


def _scored(path: Path, detector: Detector, run: Run, workers: int | None) -> Iterator[tuple[int, Scored | dict]]:
    """Yield (place in the order of the files, result) as results come."""
    if (path / MANIFEST).is_file() and read_json(path / MANIFEST).get("command") == "prepare":
        yield from _from_data(path, detector)
        return
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}: check the path")
    size, stretch = run.manifest["prepared"]["size"], run.manifest["prepared"]["stretch"]
    files = image_files(path) if path.is_dir() else [path]
    work = partial(_prepare_task, size=size, stretch=stretch)
    tasks = [Task(number, file) for number, file in enumerate(files)]
    with Progress("scoring", len(files), unit="images") as progress:
        for task, result in parallel.run(work, tasks, workers=1 if len(files) < 8 else workers):
            yield task.row, _one(task.path, result, detector)
            progress.advance(1)


def _prepare_task(task: Task, *, size: int, stretch: bool) -> Prepared:
    return prepare_image(task.path, size=size, stretch=stretch)


def _one(path: Path, result: Prepared | InputError, detector: Detector) -> Scored | dict[str, Any]:
    if isinstance(result, InputError):
        return {"image_id": path.stem, "source": str(path), "reason": str(result)}
    identity = {name: result.fields.get(name) for name in ("patient_id", "side", "view", "reason")}
    identity |= {"image_id": result.fields.get("image_id") or path.stem, "source": str(path)}
    scores, maps = detector.squares(result.image[None], result.mask[None])
    return Scored(identity, {name: float(value[0]) for name, value in scores.items()}, result.image, maps[0])


def _from_data(path: Path, detector: Detector) -> Iterator[tuple[int, Scored | dict]]:
    data = Data.open(path)
    ok = np.flatnonzero(data.index["status"] == "ok")
    with Progress("scoring", len(ok), unit="images") as progress:
        for positions, scores, maps in detector.data(data, ok):
            for number, position in enumerate(positions):
                row = data.index.iloc[position]
                identity = {name: None if pd.isna(row[name]) else row[name] for name in [*IDENTITY, "reason"]}
                values = {name: float(value[number]) for name, value in scores.items()}
                yield int(position), Scored(identity, values, data.images[position], maps[number])
            progress.advance(len(positions))
    for position in np.flatnonzero(data.index["status"] == "failed"):
        row = data.index.iloc[position]
        yield int(position), {name: None if pd.isna(row[name]) else row[name] for name in [*IDENTITY, "reason"]}
