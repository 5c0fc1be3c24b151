"""Draws the pictures of README and docs from phantoms: python docs/pictures.py"""

from pathlib import Path

import numpy as np
from PIL import Image

from mammovae.phantoms.anatomy import make_phantom

HERE = Path(__file__).parent
SIZE = 512
PATIENTS = (3, 8, 11, 14, 21, 29)


def phantoms() -> None:
    """Six patients, left breast, MLO above CC, one of each pair of columns dense."""
    rows = [
        np.hstack([make_phantom(0, patient, "L", view, size=SIZE).image for patient in PATIENTS])
        for view in ("MLO", "CC")
    ]
    sheet = Image.fromarray((np.vstack(rows) >> 8).astype(np.uint8))
    sheet = sheet.resize((1440, round(1440 * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
    sheet.save(HERE / "phantoms.png", optimize=True)


if __name__ == "__main__":
    phantoms()
