"""Lesions inserted into healthy prepared images, scored beside the images untouched."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.perturbations.lesions import (
    CALCIFICATION_CONTRAST,
    LESION_KINDS,
    InsertedLesion,
    LesionFamily,
    LesionSpec,
    insert_lesion,
    insert_random_lesion,
)

SIZES_MM = (2.0, 5.0, 10.0, 20.0, 40.0)
CONTRASTS = (0.1, 0.2, 0.4, 0.8)


class _Job(NamedTuple):
    """An image to score: untouched (kind ""), with an inserted lesion, or the lesion's sham twin."""

    position: int
    image: np.ndarray
    kind: str = ""
    insertion: InsertedLesion | None = None


def score_inserted_lesions(
    detector: Detector, data: Data, positions: np.ndarray, family: LesionFamily, seed: int, draws: int = 2
) -> pd.DataFrame:
    """Score healthy images with a random lesion of each kind, drawn several times, beside the images untouched.

    Returns
    -------
    A row an image with a lesion, one for its sham twin (kind "sham") and one for each untouched image (kind ""):
    position, kind, diameter_mm, contrast, the raw scores, hit_MAP for each single map and hit for the fused one
    (whether its maximum lies in the lesion), and chance, the lesion's share of the breast. Bilateral scores compare
    with the other breast untouched.
    """
    return _scored(detector, data, _random_jobs(data, positions, family, seed, draws))


def _random_jobs(data: Data, positions: np.ndarray, family: LesionFamily, seed: int, draws: int) -> Iterator[_Job]:
    for position, mm_per_pixel in zip(map(int, positions), data.mm_per_pixel(positions).tolist(), strict=True):
        image, mask = data.images[position], data.masks[position]
        yield _Job(position, image)
        for number, kind in enumerate(LESION_KINDS * draws):
            insertion = insert_random_lesion(image, mask, mm_per_pixel, family, [seed, position, number], [kind])
            if insertion is not None:
                yield _Job(position, insertion.image, kind, insertion)
                if number == 0:
                    yield _Job(position, insertion.sham, "sham", insertion)


def detectability(detector: Detector, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score healthy images with test lesions of every size and contrast, kinds in turn; no shams.

    The rows are those of score_inserted_lesions; a size for which a breast has no room is left out.
    """
    rows = _scored(detector, data, _jobs_of_every_size(data, positions, seed))
    factor = np.where(rows["kind"] == "calcification", CALCIFICATION_CONTRAST, 1.0)
    return rows.assign(contrast=np.round(rows["contrast"] / factor, 6))


def _jobs_of_every_size(data: Data, positions: np.ndarray, seed: int) -> Iterator[_Job]:
    sizes = data.mm_per_pixel(positions).tolist()
    for turn, (position, mm_per_pixel) in enumerate(zip(map(int, positions), sizes, strict=True)):
        image, mask = data.images[position], data.masks[position] > 0
        yield _Job(position, image)
        for row, column in np.ndindex(len(SIZES_MM), len(CONTRASTS)):
            kind = LESION_KINDS[(turn + row + column) % len(LESION_KINDS)]
            contrast = CONTRASTS[column] * (CALCIFICATION_CONTRAST if kind == "calcification" else 1)
            spec = LesionSpec(kind, "test", SIZES_MM[row], contrast, seed + 1000 * turn + 10 * row + column)
            with suppress(ValueError):  # no room
                insertion = insert_lesion(image, mask, mm_per_pixel, spec)
                yield _Job(position, insertion.image, kind, insertion)


def _scored(detector: Detector, data: Data, jobs: Iterator[_Job]) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    while batch := list(islice(jobs, detector.batch_size)):  # made as they are scored: each holds images of its own
        positions, images = np.array([job.position for job in batch]), np.stack([job.image for job in batch])
        others = data.other_breasts(positions)
        scores, maps, fused = detector.detect(images, data.masks[positions], others, with_maps=True)
        for number, (position, _, kind, insertion) in enumerate(batch):
            row: dict[str, object] = {"position": position, "kind": kind, "diameter_mm": np.nan, "contrast": np.nan}
            row |= {name: float(values[number]) for name, values in scores.items()}
            if insertion is not None:
                spec, lesion = insertion.spec, insertion.lesion
                row |= {"diameter_mm": spec.diameter_mm, "contrast": spec.contrast}
                row["chance"] = float(lesion.sum() / max(1, (data.masks[position] > 0).sum()))
                row["hit"] = points_at_lesion(fused[number], lesion)
                row |= {f"hit_{name}": points_at_lesion(values[number], lesion) for name, values in maps.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def points_at_lesion(anomaly_map: np.ndarray, lesion: np.ndarray) -> bool:
    """Say whether a map's maximum lies in a lesion; lesion (S, S), S a whole multiple or fraction of the map's size."""
    y, x = np.unravel_index(int(np.argmax(anomaly_map)), anomaly_map.shape)
    ratio = lesion.shape[0] / anomaly_map.shape[0]
    region = tuple(slice(int(a * ratio), max(int(a * ratio) + 1, int((a + 1) * ratio))) for a in (y, x))
    return bool(lesion[region].any())
