"""DATA folders written directly: whatever rows and pixels a test needs, without raw files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tests.conftest import make_breast_images

from mammovae.config import PrepareSettings
from mammovae.data import index
from mammovae.data.measurements import MEASUREMENTS
from mammovae.storage import MANIFEST, provenance, write_json

Row = Mapping[str, Any]
_SPLITS = ("train", "train", "train", "validation", "calibration", "test")


def row(image_id: str, patient_id: str, split: str = "train", side: str = "L", **more: Any) -> Row:
    """Return a row of an index: a healthy image that trains, unless more says otherwise."""
    geometry = {"mirrored": False, "scale_x": 0.5, "scale_y": 0.5, "pad_left": 0.0, "pad_top": 0.0}
    geometry |= {"crop_x0": 0, "crop_y0": 0, "crop_x1": 64, "crop_y1": 64, "rows": 64, "columns": 64}
    names = {"image_id": image_id, "patient_id": patient_id, "source": f"{image_id}.png", "kind": "mammogram"}
    return names | {"side": side, "view": "CC", "split": split, "healthy": True, "mm_per_pixel": 0.4} | geometry | more


def write_data(folder: Path, rows: Sequence[Row], images: np.ndarray, masks: np.ndarray, **facts: Any) -> Path:
    """Write a finished DATA folder; facts replace those of the manifest, settings and kind those within it."""
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)
    index.write(index.table(rows), folder / "index.parquet")
    inside = [image[mask > 0] / 65535 for image, mask in zip(images, masks, strict=True)]
    measures = {"grey_median": [np.median(grey) for grey in inside], "grey_high": [grey.max() for grey in inside]}
    pd.DataFrame(measures).to_parquet(folder / MEASUREMENTS, index=False)
    settings = PrepareSettings(size=images.shape[1]).model_dump(mode="json") | facts.pop("settings", {})
    inputs = {"kind": facts.pop("kind", "dicom"), "root": str(folder / "raw")}
    manifest = {"command": "prepare", "state": "done", "settings": settings, "inputs": inputs, "size": images.shape[1]}
    manifest |= provenance() | {
        "phantoms": False,
        "by_patient": True,
        "white": None,
        "notes": [],
        "stored_as": "standard",
    }
    write_json(folder / MANIFEST, manifest | {"duplicates": [], "contradictions": []} | facts)
    return folder


def breasts(count: int, seed: int = 0, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return prepared images, uint16, of which no two are equal, and masks."""
    images, masks = make_breast_images(count, size, seed)
    return (images * 65535).round().astype(np.uint16), masks


def small_data(folder: Path, rows: list[Row], pixels: list[int], **facts: Any) -> Path:
    """Write a folder whose images are those of the numbers, the same number the same pixels."""
    images, masks = breasts(12, 7)
    return write_data(folder, rows, images[pixels], masks[pixels], **facts)


def two_folders_and_both(place: Path) -> tuple[Path, Path, Path]:
    """Write two folders of both breasts of patients in all splits, and a third with the rows of the first and second."""
    rows = _pairs("a", 12), _pairs("b", 18)
    pixels = breasts(24, 1), breasts(36, 2)
    names = place / "A", place / "B"
    first, second = (write_data(name, own, *part) for name, own, part in zip(names, rows, pixels, strict=True))
    images, masks = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
    return first, second, write_data(place / "C", rows[0] + rows[1], images, masks)


def _pairs(name: str, patients: int) -> list[Row]:
    """Return rows of both breasts of some patients, in all splits."""
    return [
        row(f"{name}{number}{side}", f"{name}{number}", _SPLITS[number % len(_SPLITS)], side)
        for number in range(patients)
        for side in "LR"
    ]
