"""Random lesions for healthy images: what a network learns to find, and what settings are chosen by."""

from collections.abc import Sequence

import numpy as np

from mammovae.config import LesionKind
from mammovae.perturbations.lesions import LESION_KINDS, InsertedLesion, LesionFamily, LesionSpec, insert_lesion

DIAMETERS_MM = (5.0, 40.0)
CONTRASTS = (0.15, 0.9)
CALCIFICATION_CONTRAST = 3.0
"""How much more contrast calcifications get: a speck fills a small part of a pixel."""


def insert_random_lesion(
    image: np.ndarray,
    mask: np.ndarray,
    mm_per_pixel: float,
    family: LesionFamily,
    seed: list[int],
    kinds: Sequence[LesionKind] = LESION_KINDS,
) -> InsertedLesion | None:
    """Insert one lesion of a kind drawn from kinds, of random size and contrast; None where the breast has no room.

    Diameter log-uniform in 5 to 40 mm, contrast log-uniform in 0.15 to 0.9 (thrice that for calcifications). image
    (rows, columns) uint16, mask (rows, columns); seed decides everything.
    """
    rng = np.random.default_rng([*seed, 77])
    kind = kinds[int(rng.integers(len(kinds)))]
    diameter, contrast = (float(np.exp(rng.uniform(*np.log(span)))) for span in (DIAMETERS_MM, CONTRASTS))
    contrast *= CALCIFICATION_CONTRAST if kind == "calcification" else 1.0
    for shrink in (1.0, 0.5, 0.25):
        try:
            spec = LesionSpec(kind, family, max(2.0, diameter * shrink), contrast, int(rng.integers(2**31)))
            return insert_lesion(image, mask > 0, mm_per_pixel, spec)
        except ValueError:
            continue
    return None
