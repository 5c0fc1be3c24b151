"""A run's scorer of image files and DATA folders, in this process or in a worker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from mammovae.data.dataset import Data
from mammovae.data.laterality import against_header
from mammovae.data.prepare_image import PreparedImage
from mammovae.detection import map_files
from mammovae.detection.detector import Detection, Detector
from mammovae.detection.score_inputs import ImageFile, prepare_file
from mammovae.detection.score_rows import IDENTITY, PreparedImages, ScoreRowBuilder
from mammovae.imageio.image_kind import kind_of_name
from mammovae.models.run import Run

Key = tuple[int, int]  # a row's place in the table: number of the DATA folder (files follow the last), position there


class Task(NamedTuple):
    """One image file, or some of the images of a DATA folder (its path)."""

    keys: tuple[Key, ...]
    image_ids: tuple[str, ...]
    place: ImageFile | Path


class ScoredImage(NamedTuple):
    """The result for one image, with its prepared image and map where the review page needs them; row None: it is none.

    None is a row for a file without an image's suffix whose content is no image's.
    """

    key: Key
    row: dict[str, Any] | None
    suspicion: float = 0.0
    shown: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Scorer:
    """Scores tasks in any process: it is pickled as the run's path, and opens the run where it arrives."""

    path: Path
    rate: float | None
    maps: Path | None
    has_review: bool
    white: int | None  # of files that do not state their range; by default the run's

    def __post_init__(self) -> None:
        """Open the run."""
        self.run = Run.open(self.path)
        self.rows, self.detector = ScoreRowBuilder(self.run, self.rate), Detector(self.run)
        prepared = self.run.manifest["prepared"]
        white = prepared.get("white") if self.white is None else self.white
        self.preparing = {"size": prepared["size"], "stretch": prepared["stretch"], "white": white}
        self.kinds: Sequence[str] = prepared.get("kinds", ["mammogram"])
        self.folders: dict[Path, Data] = {}  # opened already, by the place that tasks name

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle absolute paths: a worker elsewhere has another working directory."""
        maps = None if self.maps is None else self.maps.absolute()
        return Scorer, (self.path.absolute(), self.rate, maps, self.has_review, self.white)

    def __call__(self, task: Task) -> list[ScoredImage]:
        """Return what is of each of the task's images."""
        if isinstance(task.place, ImageFile):
            return self.score_prepared([(task, prepare_file(task.place, **self.preparing))])[0]
        return next(self.score_parts(task.place, [task]))[1]

    def score_parts(self, folder: Path, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[ScoredImage]]]:
        """Yield parts of a DATA folder with what is of their images."""
        if folder not in self.folders:
            self.folders[folder] = Data.open(folder)
        data, parts = self.folders[folder], [np.array([row for _, row in task.keys]) for task in tasks]
        for task, rows, detection in zip(tasks, parts, self.detector.detect_parts(data, parts), strict=True):
            yield task, self._score_part(task, data, rows, detection)

    def score_prepared(self, prepared: Sequence[tuple[Task, PreparedImage | None]]) -> list[list[ScoredImage]]:
        """Score the images of files together, None where a file holds none; return what is of each file."""
        found = [(task, image) for task, image in prepared if image is not None]
        scored = iter(self._score_files(*zip(*found, strict=True)) if found else ())
        return [[ScoredImage(task.keys[0], None) if image is None else next(scored)] for task, image in prepared]

    def _score_files(self, tasks: Sequence[Task], results: Sequence[PreparedImage]) -> list[ScoredImage]:
        identities, measures = list[dict[str, Any]](), list[dict[str, float]]()
        for task, result in zip(tasks, results, strict=True):
            assert isinstance(task.place, ImageFile)
            identity = {"image_id": task.image_ids[0], "source": task.place.source}
            identity |= {key: result.fields.get(key) for key in ("patient_id", "side", "view")}
            kind = result.fields.get("kind") or kind_of_name(Path(task.place.name).name)
            identity["reason"] = _joined(result.fields["reason"], self._remark_on_kind(kind))
            identities.append(identity)
            is_wrong = against_header(identity["side"], result.chest_wall, self.rows.convention)
            measures.append(result.measurements | {"against_header": float(is_wrong)})
        shapes = [(result.fields["rows"], result.fields["columns"]) for result in results]
        images, masks = (np.stack([getattr(result, name) for result in results]) for name in ("image", "mask"))
        geometries = [result.geometry for result in results]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # A file's scores are the same bytes in any process and beside any other load.
        try:
            detection = self.detector.detect(images, masks)
        finally:
            torch.set_num_threads(threads)
        keys = [task.keys[0] for task in tasks]
        return self._scored_images(
            keys, PreparedImages(images, masks, identities, measures, geometries, shapes), detection
        )

    def _remark_on_kind(self, kind: str | None) -> str | None:
        """Say that an image is of a kind that the run was not trained on."""
        if kind is None or kind in self.kinds:
            return None
        return f"its kind is {kind}, and the run knows {' and '.join(self.kinds)} only"

    def _score_part(self, task: Task, data: Data, positions: np.ndarray, detection: Detection) -> list[ScoredImage]:
        frame = data.index.iloc[positions].assign(image_id=list(task.image_ids))
        measures = data.measurements.iloc[positions].to_dict("records") if self.rows.quality else [{}] * len(positions)
        shapes = list(zip(frame["rows"].astype(int), frame["columns"].astype(int), strict=True))
        images, masks, geometries = data.images[positions], data.masks[positions], data.geometries(positions)
        identities = identities_of(frame)
        for identity, kind in zip(identities, frame["kind"].astype(object), strict=True):
            identity["reason"] = _joined(identity["reason"], self._remark_on_kind(None if pd.isna(kind) else kind))
        prepared = PreparedImages(images, masks, identities, measures, geometries, shapes)
        return self._scored_images(task.keys, prepared, detection)

    def _scored_images(self, keys: Sequence[Key], prepared: PreparedImages, detection: Detection) -> list[ScoredImage]:
        scored = []
        for number, (row, suspicion) in enumerate(self.rows.rows(prepared, detection)):
            image, anomaly_map = prepared.images[number], detection.fused_map[number]
            if self.maps is not None:
                source = (prepared.geometries[number], prepared.shapes[number])
                map_files.save_maps(self.maps, row["image_id"], image, anomaly_map, source, self.rows.level)
            shown = (np.array(image), anomaly_map) if self.has_review else None
            scored.append(ScoredImage(keys[number], row, suspicion, shown))
        return scored


def identities_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first columns of scores.csv for rows of the index, and the warning on each; null is None."""
    names = [*IDENTITY, "reason"]
    rows = frame[names].itertuples(index=False, name=None)
    return [{name: None if pd.isna(value) else value for name, value in zip(names, row, strict=True)} for row in rows]


def _joined(*remarks: str | None) -> str | None:
    return "; ".join(filter(None, remarks)) or None
