"""A run applied to images: scores.csv and map pictures from files, folders or a DATA folder."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mammovae.config import InputError, UsageError
from mammovae.data import parallel
from mammovae.data.dataset import WRITERS, Data
from mammovae.data.geometry import Geometry
from mammovae.data.index import other_breasts
from mammovae.data.pose import against_header
from mammovae.data.prepare import Prepared, Task, prepare_task
from mammovae.data.read import image_files
from mammovae.detect.calibrate import flagged
from mammovae.detect.detector import Detector
from mammovae.detect.quality import MEASURES, Quality, small
from mammovae.detect.verdict import Verdict
from mammovae.folders import MANIFEST, read_json, replacing
from mammovae.model.run import Run
from mammovae.page.pictures import save_overlay
from mammovae.page.progress import Progress
from mammovae.page.review import Sheet

FEW = 8
IDENTITY = ["image_id", "source", "patient_id", "side", "view"]
COLUMNS = [
    *IDENTITY,
    *("finding", "finding_percentile", "finding_p", "quality", "quality_percentile"),
    *("flag", "other", "reason"),
]
"""The first columns of scores.csv; the raw scores follow."""
HEALTHY_LEVEL = 8192
"""The value, in maps over source pixels, of what one healthy pixel in a thousand exceeds."""
REMARKABLE = 95.0
"""From this percentile on, the table says why."""


@dataclass(frozen=True)
class Scored:
    """One image with its raw scores, its map (s, s), and how its measures differ from healthy ones."""

    identity: dict[str, Any]
    scores: dict[str, float]
    image: np.ndarray
    map: np.ndarray
    geometry: Geometry
    shape: tuple[int, int]
    """Rows and columns of the source."""
    quality: dict[str, Any]
    """Quality.columns' values and why; empty for a run without a quality score."""


def score(
    run: Path | str,
    paths: Sequence[Path | str] | Path | str,
    *,
    out: Path | str,
    maps: Path | str | None = None,
    review: Path | str | None = None,
    flag: float | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Score images and write one row each to out; return the table.

    paths: image files, folders of them, or DATA folders. image_id is the index's, or a file's path below the
    folder given, without suffix. finding is the run's fused score inside the breast (higher = further from healthy;
    the seed preset's is its reconstruction loss in nats), finding_percentile its place among the run's healthy
    calibration images, finding_p the conformal p-value; quality and quality_percentile say the same of technical
    faults, in the whole image. With flag, a false-positive rate, the column flag names which of the two exceed it.
    other says whether the patient's other breast was used, where the run has bilateral scores; reason why an image
    failed, or which score stands out and where. An image that cannot be used is a row with a reason and no score.

    With maps, a folder, each image's map is drawn there on one fixed scale (NAME.png), and laid over the source's own
    pixels (NAME.map.png, 16 bit: 8192 is what one healthy pixel in a thousand exceeds). With review, an HTML file, the
    100 most suspicious images are shown there, refused ones first. Raises InputError when a path does not exist,
    UsageError for a flag rate that the calibration images cannot promise.
    """
    out = Path(out)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the CSV file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    opened = Run.open(run)
    judge = _Judge(opened, flag)
    data, files = _gather([Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)])
    for one in data:
        one.check_prepared_as(opened.manifest["prepared"])
    detector, level = Detector(opened), opened.manifest["map_scale"]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    sheet = None if review is None else Sheet(level)
    jobs = [*(_from_data(one, detector, judge) for one in data), _from_files(files, detector, judge, workers)]
    for place, results in enumerate(jobs):
        for number, result in results:
            if isinstance(result, dict):
                rows[place, number] = result
                if sheet is not None:
                    sheet.refuse(result)
                continue
            said = judge.row(result, level)
            rows[place, number] = result.identity | said | result.scores
            if sheet is not None:
                sheet.add(rows[place, number], judge.suspicion(result), result.image, result.map)
            if maps is not None:
                _draw(result, Path(maps), level)
    if not rows:
        raise InputError(f"there is no image in {paths}")
    table = judge.paired(pd.DataFrame([rows[key] for key in sorted(rows)]))
    table = table.reindex(columns=[*COLUMNS, *(name for name in table if name not in COLUMNS)])
    with replacing(out) as partial_path:
        table.to_csv(partial_path, index=False)
    if review is not None and sheet is not None:
        sheet.write(Path(review), out.name, len(table))
    return table


class _Judge:
    """What a run says of one image after the other, and of the two breasts of a patient once all are known."""

    def __init__(self, run: Run, rate: float | None) -> None:
        self.verdict, self.quality, self.rate = Verdict(run), Quality.open(run.path), rate
        self.convention = run.manifest["prepared"]["stored_as"]
        if rate is not None:
            self.verdict.check_rate(rate)

    def measured(
        self, measures: Sequence[Mapping[Any, float]], images: np.ndarray, masks: np.ndarray
    ) -> list[dict[str, Any]]:
        """Return the quality columns of images, and the reason behind each."""
        if self.quality is None:
            return [{} for _ in measures]
        table = pd.DataFrame(measures)[[name for name in MEASURES if name in measures[0]]].astype(np.float64)
        normal = self.quality.normal(table, *small(images, masks))
        columns = self.quality.columns(normal) | {"why": np.array(self.quality.reasons(normal), dtype=object)}
        return [{name: values[row] for name, values in columns.items()} for row in range(len(measures))]

    def row(self, scored: Scored, level: float) -> dict[str, Any]:
        """Return the columns beside the identity: finding, quality, flag, reason."""
        raw = {name: np.array([value]) for name, value in scored.scores.items()}
        said = {name: values[0] for name, values in self.verdict.alone(raw).items()}
        quality = scored.quality
        said |= {name: quality[name] for name in ("quality", "quality_percentile") if name in quality}
        if self.rate is not None:
            bounds = (("finding", said["finding_p"]), ("quality", quality.get("quality_p", 1.0)))
            said["flag"] = "+".join(name for name, p in bounds if flagged(p, self.rate)) or None
        reasons = [scored.identity["reason"]] if scored.identity["reason"] else []
        if said["finding_percentile"] >= REMARKABLE:
            above = f"finding above {said['finding_percentile']:.1f} % of healthy images"
            reasons.append(f"{above}: {self.verdict.why(raw)[0]}, {_where(scored, level)}")
        if quality.get("quality_percentile", 0) >= REMARKABLE:
            reasons.append(f"quality: {quality['why']}")
        return said | {"reason": "; ".join(reasons) or None}

    def suspicion(self, scored: Scored) -> float:
        """Return how far an image is from healthy in the worse of the two outputs, in healthy deviations."""
        finding = self.verdict.one_sided.deviation({name: np.array([value]) for name, value in scored.scores.items()})
        return float(np.nanmax([finding[0], scored.quality.get("quality_deviation", np.nan), -np.inf]))

    def paired(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add what needs the patient's other breast of the same view, for a run with bilateral scores."""
        needed = self.verdict.bilateral
        known = table["finding"].notna().to_numpy() if "finding" in table else np.zeros(len(table), bool)
        if not needed or not known.any():
            return table
        there = table[known]
        partner = other_breasts(there, np.ones(len(there), bool))
        raw = {name: table.loc[known, name].to_numpy(np.float64) for name in self.verdict.one_sided.names}
        for name in needed:
            one = name.removesuffix("_bilateral")
            if name in table:
                raw[name] = table.loc[known, name].to_numpy(np.float64)
            elif one in raw:
                raw[name] = np.where(partner >= 0, raw[one] - raw[one][partner], np.nan)
            else:  # a member that sees both breasts at once, which files alone do not give it
                raw[name] = np.full(len(partner), np.nan)
        for name, values in self.verdict.columns(raw).items():
            table.loc[known, name] = values
        return table


def _where(scored: Scored, level: float) -> str:
    """Say where a map is highest: in words from the chest wall, and in pixels of the source."""
    y, x = np.unravel_index(int(np.argmax(scored.map)), scored.map.shape)
    geometry, ratio = scored.geometry, scored.geometry.size / len(scored.map)
    across, down = (x + 0.5) * ratio, (y + 0.5) * ratio
    column, row = geometry.to_source(across - 0.5, down - 0.5)
    # Thirds of the breast, which does not fill the square.
    tall = (geometry.crop_y1 - geometry.crop_y0) * geometry.scale_y
    wide = (geometry.crop_x1 - geometry.crop_x0) * geometry.scale_x
    third = ("upper", "middle", "lower")[int(np.clip(3 * (down - geometry.pad_top) / tall, 0, 2))]
    depth = ("near the chest wall", "half-way in", "towards the nipple")[int(np.clip(3 * across / wide, 0, 2))]
    height = float(scored.map[y, x]) / level
    place = f"x {column:.0f}, y {row:.0f}; {height:.1f} times the healthy level"
    return f"map highest in the {third} third {depth} ({place})"


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


def _draw(scored: Scored, folder: Path, level: float) -> None:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(scored.identity["image_id"]))
    with replacing(folder / f"{name}.png") as partial_path:
        save_overlay(scored.image, scored.map, level, partial_path)
    ratio = scored.geometry.size // len(scored.map)
    whole = scored.geometry.restore(np.kron(scored.map, np.ones((ratio, ratio), np.float32)), scored.shape)
    with replacing(folder / f"{name}.map.png") as partial_path:
        Image.fromarray(np.clip(whole / level * HEALTHY_LEVEL, 0, 65535).astype(np.uint16)).save(partial_path)


def _from_files(
    files: dict[str, Path], detector: Detector, judge: _Judge, workers: int | None
) -> Iterator[tuple[int, Scored | dict[str, Any]]]:
    """Yield (place in the order of the files, result) as results come; a few files are not worth worker processes."""
    prepared = detector.run.manifest["prepared"]
    work = partial(prepare_task, size=prepared["size"], stretch=prepared["stretch"])
    names = list(files)
    tasks = [Task(number, file) for number, file in enumerate(files.values())]
    with Progress("scoring", len(files), unit="images") as progress:
        for task, result in parallel.run(work, tasks, workers=1 if len(files) < FEW else workers):
            yield task.row, _one(names[task.row], task.path, result, detector, judge)
            progress.advance(1)


def _one(
    name: str, path: Path, result: Prepared | InputError, detector: Detector, judge: _Judge
) -> Scored | dict[str, Any]:
    if isinstance(result, InputError):
        return {"image_id": name, "source": str(path), "reason": str(result)}
    identity = {key: result.fields.get(key) for key in ("patient_id", "side", "view", "reason")}
    identity |= {"image_id": name, "source": str(path)}
    scores, _, whole = detector.squares(result.image[None], result.mask[None])
    wrong = against_header(identity["side"], result.chest_wall, judge.convention)
    measures = result.measures | {"against_header": float(wrong)}
    return Scored(
        identity,
        {key: float(value[0]) for key, value in scores.items()},
        result.image,
        whole[0],
        result.geometry,
        (result.fields["rows"], result.fields["columns"]),
        judge.measured([measures], result.image[None], result.mask[None])[0],
    )


def _from_data(data: Data, detector: Detector, judge: _Judge) -> Iterator[tuple[int, Scored | dict[str, Any]]]:
    ok = np.flatnonzero(data.index["status"] == "ok")
    with Progress("scoring", len(ok), unit="images") as progress:
        for positions, scores, _, whole in detector.data(data, ok):
            rows = data.measures.iloc[positions].to_dict("records") if judge.quality else [{}] * len(positions)
            quality = judge.measured(rows, data.images[positions], data.masks[positions])
            for number, position in enumerate(positions):
                row = data.index.iloc[position]
                identity = {name: None if pd.isna(row[name]) else row[name] for name in [*IDENTITY, "reason"]}
                values = {name: float(value[number]) for name, value in scores.items()}
                yield (
                    int(position),
                    Scored(
                        identity,
                        values,
                        data.images[position],
                        whole[number],
                        data.geometry(int(position)),
                        (int(row["rows"]), int(row["columns"])),
                        quality[number],
                    ),
                )
            progress.advance(len(positions))
    for position in np.flatnonzero(data.index["status"] == "failed"):
        row = data.index.iloc[position]
        yield int(position), {name: None if pd.isna(row[name]) else row[name] for name in [*IDENTITY, "reason"]}
