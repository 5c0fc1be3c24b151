"""A run applied to images: scores.csv and map pictures from files, folders or a DATA folder."""

from collections import Counter
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
from mammovae.data.prepare import Prepared, Task, prepare_task
from mammovae.data.read import image_files
from mammovae.detect.calibrate import Calibration
from mammovae.detect.detector import FINDING, Detector
from mammovae.folders import MANIFEST, read_json, replacing
from mammovae.model.run import Run
from mammovae.page.progress import Progress

FEW = 8
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

    paths: image files, folders of them, or DATA folders. image_id is the index's, or a file's path below the
    folder given, without suffix. finding is the reconstruction loss (nats, higher =
    further from healthy), finding_percentile its place among the run's healthy calibration images, finding_p the
    conformal p-value. An image that cannot be used is a row with a reason and no score. With maps, a folder, each
    image's map is drawn there on one fixed scale. Raises InputError when a path does not exist.
    """
    out = Path(out)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the CSV file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    opened = Run.open(run)
    calibration = Calibration(pd.read_parquet(opened.path / "calibration.parquet")[FINDING].to_numpy())
    data, files = _gather([Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)])
    for one in data:
        one.check_prepared_as(opened.manifest["prepared"])
    detector = Detector(opened)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    jobs = [*(_from_data(one, detector) for one in data), _from_files(files, detector, workers)]
    for place, results in enumerate(jobs):
        for number, scored in results:
            if isinstance(scored, dict):
                rows[place, number] = scored
                continue
            rows[place, number] = scored.identity | {"finding": scored.scores[FINDING]} | scored.scores
            if maps is not None:
                _draw(scored, Path(maps), opened.manifest["map_scale"])
    if not rows:
        raise InputError(f"there is no image in {paths}")
    table = _table([rows[key] for key in sorted(rows)], calibration)
    with replacing(out) as partial_path:
        table.to_csv(partial_path, index=False)
    return table


def _gather(paths: list[Path]) -> tuple[list[Data], dict[str, Path]]:
    """Open the DATA folders and list the image files by image_id, before any work is done."""
    data: list[Data] = []
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if (path / MANIFEST).is_file() and read_json(path / MANIFEST).get("command") == "prepare":
            data.append(Data.open(path))
        elif path.is_dir():
            found += [(file, file.relative_to(path).with_suffix("")) for file in image_files(path)]
        elif path.exists():
            found.append((path, Path(path.stem)))
        else:
            raise UsageError(f"there is no file or folder {path}: check the path")
    times = Counter(name for _, name in found)
    return data, {(name if times[name] == 1 else file).as_posix(): file for file, name in found}


def _draw(scored: Scored, folder: Path, level: float) -> None:
    from mammovae.page.pictures import save_overlay

    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(scored.identity["image_id"]))
    with replacing(folder / f"{name}.png") as partial_path:
        save_overlay(scored.image, scored.map, level, partial_path)


def _table(rows: list[dict[str, Any]], calibration: Calibration) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    finding = table["finding"] if "finding" in table else pd.Series(np.nan, index=table.index)
    known = finding.notna()
    table["finding"] = finding
    table["finding_percentile"] = pd.Series(calibration.percentile(finding[known].to_numpy()), index=table.index[known])
    table["finding_p"] = pd.Series(calibration.p_value(finding[known].to_numpy()), index=table.index[known])
    first = [*IDENTITY, "finding", "finding_percentile", "finding_p", "reason"]
    return table.reindex(columns=[*first, *(name for name in table if name not in first)])


def _from_files(
    files: dict[str, Path], detector: Detector, workers: int | None
) -> Iterator[tuple[int, Scored | dict[str, Any]]]:
    """Yield (place in the order of the files, result) as results come; a few files are not worth worker processes."""
    prepared = detector.run.manifest["prepared"]
    work = partial(prepare_task, size=prepared["size"], stretch=prepared["stretch"])
    names = list(files)
    tasks = [Task(number, file) for number, file in enumerate(files.values())]
    with Progress("scoring", len(files), unit="images") as progress:
        for task, result in parallel.run(work, tasks, workers=1 if len(files) < FEW else workers):
            yield task.row, _one(names[task.row], task.path, result, detector)
            progress.advance(1)


def _one(name: str, path: Path, result: Prepared | InputError, detector: Detector) -> Scored | dict[str, Any]:
    if isinstance(result, InputError):
        return {"image_id": name, "source": str(path), "reason": str(result)}
    identity = {name: result.fields.get(name) for name in ("patient_id", "side", "view", "reason")}
    identity |= {"image_id": name, "source": str(path)}
    scores, maps = detector.squares(result.image[None], result.mask[None])
    return Scored(identity, {name: float(value[0]) for name, value in scores.items()}, result.image, maps[0])


def _from_data(data: Data, detector: Detector) -> Iterator[tuple[int, Scored | dict[str, Any]]]:
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
