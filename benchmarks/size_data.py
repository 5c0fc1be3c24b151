"""DATA folders of any number of rows: some hundred phantoms are prepared once, and each row is one of them, changed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mammovae
from mammovae.config import PrepareSettings
from mammovae.data import index
from mammovae.data.dataset import Data
from mammovae.data.finalize import counts
from mammovae.data.measurements import MEASUREMENTS
from mammovae.data.split import assign_splits
from mammovae.storage import MANIFEST, read_json, write_json

PATIENTS = 64
"""Phantom patients, of four images each, that all rows are made from."""


def is_done(folder: Path) -> bool:
    """Say whether a command finished its folder."""
    return (folder / MANIFEST).is_file() and read_json(folder / MANIFEST)["state"] == "done"


def phantoms(folder: Path, size: int, patients: int = PATIENTS) -> Path:
    """Prepare phantoms at a size, a third of the patients with findings; return their DATA folder, kept if finished."""
    if is_done(folder / "data"):
        return folder / "data"
    mammovae.phantom(
        out=folder / "raw", layout="vindr-png", patients=patients, size=max(256, 4 * size), finding_share=0.3
    )
    mammovae.prepare("vindr", folder / "raw", out=folder / "data", settings=PrepareSettings(size=size))
    return folder / "data"


def write_data(source: Path, out: Path, count: int, seed: int = 0) -> Path:
    """Write a DATA folder of count rows, patients of their own, from one of phantoms; a finished one is kept.

    Each copy of the phantoms is a little darker, each image by another factor, so that no two scores need be equal.
    """
    if is_done(out):
        return out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data = Data.open(source)
    usable = np.flatnonzero(data.index["status"] == "ok")
    copies = -(-count // len(usable))
    frame, measured = _tables(data, usable, copies, count, seed)
    frame = assign_splits(frame.assign(split=pd.Series(pd.NA, frame.index, frame["split"].dtype)), seed)
    _write_pixels(data, usable, out, count, seed)
    measured.to_parquet(out / MEASUREMENTS, index=False)
    index.write(frame, out / "index.parquet")
    facts: dict[str, Any] = {"duplicates": [], "contradictions": [], "notes": [], "counts": counts(frame)}
    write_json(out / MANIFEST, read_json(source / MANIFEST) | facts)
    return out


def _tables(data: Data, usable: np.ndarray, copies: int, count: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index, without splits, and the measurements of count rows."""
    frame = pd.concat([data.index.iloc[usable]] * copies, ignore_index=True).head(count)
    copy = pd.Series(np.arange(count) // len(usable)).astype(str)
    names = {name: frame[name] + "-" + copy for name in ("image_id", "patient_id", "study_id", "source")}
    measured = pd.concat([data.measurements.iloc[usable]] * copies, ignore_index=True).head(count)
    changes = np.random.default_rng([seed, 1]).normal(1, 0.01, measured.shape)
    return frame.assign(**{name: ids.astype(frame[name].dtype) for name, ids in names.items()}), measured * changes


def _write_pixels(data: Data, usable: np.ndarray, out: Path, count: int, seed: int) -> None:
    """Write images.npy and masks.npy, a copy of the phantoms at a time."""
    shape = (count, data.size, data.size)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint16, shape)
    masks = np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, shape)
    factors = np.random.default_rng([seed, 2]).uniform(0.85, 1, count).astype(np.float32)
    for start in range(0, count, len(usable)):
        rows = usable[: count - start]
        images[start : start + len(rows)] = data.images[rows] * factors[start : start + len(rows), None, None]
        masks[start : start + len(rows)] = data.masks[rows]
