"""Do maps point at annotated lesions: pointing game, pixel average precision, FROC."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mammovae.evaluation.inserted_lesions import points_at_lesion
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap, average_precision, flatten_estimates

FALSE_MARKS = (0.5, 1.0, 2.0, 4.0)
"""False marks a healthy image at which FROC's sensitivity is read."""
_MARKS = 20


@dataclass(frozen=True)
class Localisation:
    """What maps say of where lesions are; every estimate's n_finding is the number of annotated images."""

    pointing: Estimate
    """Share of annotated images in which the map's maximum lies in a lesion: the pointing game (Zhang et al., 2018)."""
    chance: Estimate
    """What a point drawn at random in the breast would reach: the lesions' share of it."""
    other_pointing: Estimate
    """The same for the blob filter."""
    pixel_precision: Estimate
    """Mean over annotated images of the average precision of pixels in the breast; chance is the line above."""
    froc: dict[float, Estimate]
    """Sensitivity (lesion regions hit) at false marks a healthy image."""
    n_healthy: int

    def metrics(self) -> dict[str, float | int | None]:
        """Return flat keys: pointing, pointing_low, pointing_high, pointing_chance, froc_at_1, ..."""
        rows = {"pointing": self.pointing, "pointing_blobs": self.other_pointing}
        rows |= {"pixel_average_precision": self.pixel_precision}
        rows |= {f"froc_at_{rate:g}".replace(".", "_"): row for rate, row in self.froc.items()}
        return {"n_annotated": self.pointing.n_finding, "pointing_chance": self.chance.value} | flatten_estimates(rows)


def localise(
    maps: np.ndarray,
    lesions: np.ndarray,
    breasts: np.ndarray,
    healthy: np.ndarray,
    other_hits: np.ndarray,
    bootstrap: PatientBootstrap,
) -> Localisation:
    """Judge maps (N, S, S) against lesion regions and breasts, bool (N, S, S); all on one scale.

    healthy: bool (N,), the images on which false marks are counted; other_hits: (N,) hits of another map, NaN where
    there is no annotation. Marks are the local maxima of a map, 1/16 of its side apart (FROC: Bunch et al., Proc. SPIE
    127:124, 1977); annotated images have one lesion or several, and each counts.
    """
    annotated = np.array([bool(lesion.any()) for lesion in lesions])
    hits = np.array(
        [bool(has) and points_at_lesion(map, lesion) for map, lesion, has in zip(maps, lesions, annotated, strict=True)]
    )
    share = (lesions & breasts).sum(axis=(1, 2)) / np.maximum(breasts.sum(axis=(1, 2)), 1)
    precision = np.array(
        [
            (average_precision(lesion[breast], map[breast].astype(float)) or 0.0) if has and breast.any() else 0.0
            for map, lesion, breast, has in zip(maps, lesions, breasts, annotated, strict=True)
        ]
    )
    return Localisation(
        pointing=bootstrap.mean(hits.astype(float), annotated),
        chance=bootstrap.mean(share, annotated),
        other_pointing=bootstrap.mean(np.nan_to_num(other_hits), annotated),
        pixel_precision=bootstrap.mean(precision, annotated),
        froc=_froc(maps, lesions, annotated, healthy, bootstrap),
        n_healthy=int(healthy.sum()),
    )


def _froc(
    maps: np.ndarray, lesions: np.ndarray, annotated: np.ndarray, healthy: np.ndarray, bootstrap: PatientBootstrap
) -> dict[float, Estimate]:
    if not healthy.any() or not annotated.any():
        return {}
    false = np.sort(np.concatenate([marks(map)[1] for map in maps[healthy]]))[::-1]
    found = {}
    for rate in FALSE_MARKS:
        allowed = int(rate * healthy.sum())
        threshold = false[allowed] if allowed < len(false) else -np.inf
        share = np.array(
            [
                _share_hit(map, lesion, float(threshold)) if has else 0.0
                for map, lesion, has in zip(maps, lesions, annotated, strict=True)
            ]
        )
        found[rate] = bootstrap.mean(share, annotated)
    return found


def _share_hit(map: np.ndarray, lesion: np.ndarray, threshold: float) -> float:
    """Return the share of an image's lesion regions that hold a mark above the threshold."""
    places, heights = marks(map)
    labels, count = ndimage.label(lesion)  # pyrefly: ignore
    kept = places[heights > threshold]
    hit = set(labels[kept[:, 0], kept[:, 1]].tolist()) - {0}
    return len(hit) / max(count, 1)


def marks(map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (k, 2) and heights (k,) of a map's highest local maxima, at most 20, zeros left out."""
    reach = max(3, map.shape[0] // 16) | 1
    top = (map == ndimage.maximum_filter(map, reach)) & (map > 0)
    places = np.argwhere(top)
    heights = map[top].astype(float)
    order = np.argsort(-heights, kind="stable")[:_MARKS]
    return places[order], heights[order]
