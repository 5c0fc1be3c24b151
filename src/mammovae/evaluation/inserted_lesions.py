"""Stress tests of a run: lesions planted into healthy squares, and faults planted into healthy source images."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.perturbations.lesions import LESION_KINDS, InsertedLesion, LesionFamily, LesionSpec, insert_lesion
from mammovae.perturbations.random_lesions import CALCIFICATION_CONTRAST, insert_random_lesion

SIZES_MM = (2.0, 5.0, 10.0, 20.0, 40.0)
CONTRASTS = (0.1, 0.2, 0.4, 0.8)
_BATCH = 16


def score_inserted_lesions(
    detector: Detector, data: Data, positions: np.ndarray, family: LesionFamily, seed: int, draws: int = 2
) -> pd.DataFrame:
    """Score healthy films with a random lesion of each kind, drawn several times, beside the films untouched.

    Returns a row a planted film (position, kind, diameter_mm, contrast, the raw scores, hit_MAP for each single map
    and hit for the fused one: whether its maximum lies in the lesion, and chance, the lesion's share of the breast), a
    row for its sham twin (kind "sham") and for each untouched film (kind ""). Bilateral scores compare with the other
    breast as it is.
    """
    jobs: list[tuple[int, InsertedLesion | None, bool]] = []
    for position in positions:
        jobs.append((int(position), None, False))
        for number, kind in enumerate(LESION_KINDS * draws):
            key = [seed, int(position), number]
            image, mask = data.images[position], data.masks[position]
            planting = insert_random_lesion(image, mask, data.mm_per_pixel(int(position)), family, key, [kind])
            if planting is not None:
                jobs.append((int(position), planting, False))
                if number == 0:
                    jobs.append((int(position), planting, True))
    return pd.DataFrame(list(_scored(detector, data, jobs)))


def detectability(detector: Detector, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
    """Score healthy films with REPORT lesions of every size and contrast, kinds in turn; rows as planted's."""
    jobs: list[tuple[int, InsertedLesion | None, bool]] = []
    for turn, position in enumerate(positions):
        jobs.append((int(position), None, False))
        for row, diameter in enumerate(SIZES_MM):
            for column, contrast in enumerate(CONTRASTS):
                kind = LESION_KINDS[(turn + row + column) % len(LESION_KINDS)]
                try:
                    rise = contrast * (CALCIFICATION_CONTRAST if kind == "calcification" else 1)
                    spec = LesionSpec(kind, "test", diameter, rise, seed + 1000 * turn + 10 * row + column)
                    image, mask = data.images[position], data.masks[position] > 0
                    planting = insert_lesion(image, mask, data.mm_per_pixel(int(position)), spec)
                except ValueError:  # no room for a lesion of this size in this breast
                    continue
                jobs.append((int(position), planting, False))
    rows = pd.DataFrame(list(_scored(detector, data, jobs)))
    calcium = (rows["kind"] == "calcification").to_numpy()
    contrast = np.where(calcium, rows["contrast"] / CALCIFICATION_CONTRAST, rows["contrast"])
    return rows.assign(contrast=np.round(contrast, 6))


def _scored(
    detector: Detector, data: Data, jobs: Sequence[tuple[int, InsertedLesion | None, bool]]
) -> Iterator[dict[str, object]]:
    for start in range(0, len(jobs), _BATCH):
        part = jobs[start : start + _BATCH]
        positions = np.array([position for position, _, _ in part])
        images = np.stack(
            [
                data.images[position] if planting is None else (planting.sham if sham else planting.image)
                for position, planting, sham in part
            ]
        )
        scores, maps, whole = detector.squares(images, data.masks[positions], data.other_squares(positions))
        for number, (position, planting, sham) in enumerate(part):
            row: dict[str, object] = {"position": position, "kind": "", "diameter_mm": np.nan, "contrast": np.nan}
            row |= {name: float(values[number]) for name, values in scores.items()}
            if planting is not None:
                row |= {"kind": "sham" if sham else planting.spec.kind}
                row |= {"diameter_mm": planting.spec.diameter_mm, "contrast": planting.spec.contrast}
                lesion = planting.lesion
                row["chance"] = float(lesion.sum() / max(1, (data.masks[position] > 0).sum()))
                row["hit"] = points_at_lesion(whole[number], lesion)
                row |= {f"hit_{name}": points_at_lesion(map[number], lesion) for name, map in maps.items()}
            yield row


def points_at_lesion(map: np.ndarray, lesion: np.ndarray) -> bool:
    """Say whether a map's maximum lies in a lesion; lesion (S, S), S a whole multiple or fraction of the map's size."""
    y, x = np.unravel_index(int(np.argmax(map)), map.shape)
    ratio = lesion.shape[0] / map.shape[0]
    rows = slice(int(y * ratio), max(int(y * ratio) + 1, int((y + 1) * ratio)))
    columns = slice(int(x * ratio), max(int(x * ratio) + 1, int((x + 1) * ratio)))
    return bool(lesion[rows, columns].any())
