"""Draw the images of README and docs from phantoms: python tools/phantom_images.py [RUN].

RUN, a run of the generate preset that was trained on phantoms, gives generated.png.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mammovae.generation.samplers import LatentSampler
from mammovae.models.run import Run
from mammovae.phantoms.anatomy import make_phantom

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE = 512
PATIENTS = (3, 8, 11, 14, 21, 29)


def phantoms() -> None:
    """Draw six patients, left breast, MLO above CC, one of each pair of columns dense."""
    rows = [
        np.hstack([make_phantom(0, patient, "L", view, size=SIZE).image for patient in PATIENTS])
        for view in ("MLO", "CC")
    ]
    sheet = Image.fromarray((np.vstack(rows) >> 8).astype(np.uint8))
    sheet = sheet.resize((1440, round(1440 * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
    sheet.save(IMAGES / "phantoms.png", optimize=True)


def generated(run: str) -> None:
    """Draw the first 24 images of a run's latent density, none picked, twice their size."""
    images = LatentSampler(Run.open(run), "latent").generate(np.arange(24)).images
    rows = [np.hstack(list(images[start : start + 8])) for start in range(0, 24, 8)]
    sheet = Image.fromarray(np.rint(np.vstack(rows) * 255).astype(np.uint8))
    sheet.resize((1440, round(1440 * sheet.height / sheet.width)), Image.Resampling.LANCZOS).save(
        IMAGES / "generated.png", optimize=True
    )


if __name__ == "__main__":
    phantoms()
    for path in sys.argv[1:]:
        generated(path)
