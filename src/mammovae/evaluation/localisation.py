"""Do anomaly maps point at annotated lesions: pointing game, pixel average precision, FROC."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from mammovae.evaluation.inserted_lesions import points_at_lesion
from mammovae.statistics import Bools
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, average_precision, flatten_estimates

FALSE_MARKS = (0.5, 1.0, 2.0, 4.0)
"""False marks a healthy image at which FROC's sensitivity is read."""
_MARKS = 20


@dataclass(frozen=True)
class Localisation:
    """How well maps localise lesions; every estimate's n_finding is the number of annotated images."""

    pointing: Estimate
    """Share of annotated images in which the map's maximum lies in a lesion: the pointing game (Zhang et al., 2018)."""
    chance: Estimate
    """What a random point in the breast would reach: the lesions' share of it."""
    blob_pointing: Estimate
    """The same as pointing for the blob filter."""
    pixel_precision: Estimate
    """Mean over annotated images of the average precision of pixels in the breast; chance is as above."""
    froc: dict[float, Estimate]
    """Sensitivity (lesion regions hit) at false marks a healthy image."""

    def metrics(self) -> dict[str, float | int | None]:
        """Return flat keys: pointing, pointing_low, pointing_high, pointing_chance, froc_at_1, ..."""
        rows = {"pointing": self.pointing, "pointing_blobs": self.blob_pointing}
        rows |= {"pixel_average_precision": self.pixel_precision}
        rows |= {f"froc_at_{rate:g}".replace(".", "_"): row for rate, row in self.froc.items()}
        return {"n_annotated": self.pointing.n_finding, "pointing_chance": self.chance.value} | flatten_estimates(rows)


LOCALISED = ("hit", "pixel_precision", "lesion_share", "lesion_marks", "marks")
"""What localise says of an image, and columns of score_images' table."""
BLOB_HIT = "blob_hit"
"""The column that says of annotated images whether the blob filter's maximum lies in a lesion."""


def localise(anomaly_map: np.ndarray, lesion: np.ndarray, breast: np.ndarray, is_control: bool) -> dict[str, Any]:
    """Compare an image's map (S, S) with its lesion regions, bool (S, S), so that the map need not be kept.

    Returns
    -------
    Of an annotated image hit (whether the maximum lies in a lesion), pixel_precision, lesion_share (of the breast) and
    lesion_marks (the height of the highest mark in each region, -inf without any), else NaN and none; of a control
    marks, the heights of its marks.
    """
    facts: dict[str, Any] = {"hit": np.nan, "pixel_precision": np.nan, "lesion_share": np.nan}
    none = np.empty(0, np.float32)
    facts |= {"lesion_marks": none, "marks": marks(anomaly_map)[1].astype(np.float32) if is_control else none}
    if lesion.any():
        facts["hit"] = float(points_at_lesion(anomaly_map, lesion))
        facts["pixel_precision"] = average_precision(lesion[breast], anomaly_map[breast].astype(float)) or 0.0
        facts["lesion_share"] = float((lesion & breast).sum() / max(breast.sum(), 1))
        facts["lesion_marks"] = _highest_marks(anomaly_map, lesion).astype(np.float32)
    return facts


def localisation_metrics(rows: pd.DataFrame, healthy: Bools, bootstrap: PatientBootstrap) -> Localisation | None:
    """Measure maps on one scale by the columns LOCALISED and BLOB_HIT of N images; None where none is annotated.

    Marks are the local maxima of a map (FROC: Bunch et al., Proc. SPIE 127:124, 1977); false ones are counted on the
    healthy images, bool (N,). Of several lesions in an image each counts.
    """
    annotated = rows["hit"].notna().to_numpy(bool)
    if not annotated.any():
        return None
    filled = rows[["hit", "pixel_precision", "lesion_share", BLOB_HIT]].fillna(0.0)
    froc = {}
    if healthy.any():
        false_heights = np.sort(np.concatenate(rows.loc[healthy, "marks"].to_list()))[::-1]
        for rate in FALSE_MARKS:
            allowed = int(rate * healthy.sum())
            threshold = float(false_heights[allowed]) if allowed < len(false_heights) else -np.inf
            hits = np.array([(cell > threshold).mean() if len(cell) else 0.0 for cell in rows["lesion_marks"]])
            froc[rate] = bootstrap.mean(hits, annotated)
    return Localisation(
        pointing=bootstrap.mean(filled["hit"], annotated),
        chance=bootstrap.mean(filled["lesion_share"], annotated),
        blob_pointing=bootstrap.mean(filled[BLOB_HIT], annotated),
        pixel_precision=bootstrap.mean(filled["pixel_precision"], annotated),
        froc=froc,
    )


def _highest_marks(anomaly_map: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """Return the height of the highest mark in each of an image's lesion regions, -inf where there is none."""
    places, heights = marks(anomaly_map)
    regions, count = ndimage.label(lesion)  # pyrefly: ignore
    highest = np.full(count + 1, -np.inf)
    np.maximum.at(highest, regions[tuple(places.T)], heights)
    return highest[1:]


def marks(anomaly_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (k, 2) and heights (k,) of a map's highest local maxima, at most 20, zeros left out.

    Nothing is higher within 1/32 of the map's side around a mark. Pixels of one height that are no further apart are
    one mark, at the pixel nearest to their middle, and a flat part of a slope is none: rounding makes no marks.
    """
    reach = max(3, anomaly_map.shape[0] // 16) | 1
    peaks = (anomaly_map == ndimage.maximum_filter(anomaly_map, reach)) & (anomaly_map > 0)
    flat, _ = ndimage.label(peaks, np.ones((3, 3)))  # pyrefly: ignore
    goes_on = ndimage.maximum_filter(np.where(peaks, -np.inf, anomaly_map), 3) >= anomaly_map  # to where it is higher
    peaks &= ~np.isin(flat, flat[peaks & goes_on])
    plateaus, count = ndimage.label(ndimage.maximum_filter(peaks, reach // 2), np.ones((3, 3)))  # pyrefly: ignore
    places, of_place = np.argwhere(peaks), plateaus[peaks] - 1
    sizes = np.bincount(of_place, minlength=count)
    middles = np.stack([np.bincount(of_place, axis, count) / sizes for axis in places.T], axis=1)
    nearest_first = np.argsort(((places - middles[of_place]) ** 2).sum(axis=1), kind="stable")
    centres = nearest_first[np.unique(of_place[nearest_first], return_index=True)[1]]
    places, heights = places[centres], anomaly_map[tuple(places[centres].T)].astype(float)
    order = np.argsort(-heights, kind="stable")[:_MARKS]
    return places[order], heights[order]
