"""The images of a DATA folder as files, with their index as CSV: for other people's networks."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mammovae.arguments import AnyPath, checked
from mammovae.config import ExportForm
from mammovae.data import index
from mammovae.data.geometry import Geometry
from mammovae.report.progress import Progress
from mammovae.storage import MANIFEST, atomic_write, read_manifest, write_csv

_GEOMETRY = [name for name in Geometry.__dataclass_fields__ if name != "size"]


@checked
def export(folder: AnyPath, form: ExportForm) -> Path:
    """Write the images and masks of a finished DATA folder as files below it, and return their folder, export-FORM.

    images/NAME and masks/NAME of every image that could be used: PNG of 16 bits, the mask of 8 (255 inside the breast),
    or NumPy arrays as DATA holds them, uint16 and uint8 (1 inside). index.csv has a row each: the file's name and the
    columns of index.parquet; findings are JSON, their boxes in pixels of the written image. Files that are newer
    than the manifest, and so of these very images, are not written again.
    """
    manifest = read_manifest(folder, "prepare")
    frame = index.read(folder / "index.parquet")
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    out, save = folder / f"export-{form}", _WRITERS[form]
    prepared_ns = (folder / MANIFEST).stat().st_mtime_ns
    rows = np.flatnonzero(frame["status"] == "ok").tolist()
    names = [f"{row:06d}_{_plain(name)}.{form}" for row, name in zip(rows, frame["image_id"].take(rows), strict=True)]
    with Progress("exporting", len(rows), unit="images") as progress:
        for row, name in zip(rows, names, strict=True):
            for kind, values in (("images", images[row]), ("masks", masks[row])):
                path = out / kind / name
                if not path.exists() or path.stat().st_mtime_ns < prepared_ns:
                    with atomic_write(path) as partial_path:
                        save(values, partial_path)
            progress.advance()
    table = frame.iloc[rows].drop(columns=["status"])
    names_of_fields = [*_GEOMETRY, "findings"]
    fields = zip(*(table[name] for name in names_of_fields), strict=True)
    records = (dict(zip(names_of_fields, values, strict=True)) for values in fields)
    findings = [json.dumps(_placed_findings(record, manifest["size"])) for record in records]
    table = table.assign(findings=findings)
    table.insert(0, "file", names)
    write_csv(table, out / "index.csv")
    return out


def _save_png(values: np.ndarray, path: Path) -> None:
    image = values if values.dtype == np.uint16 else values * np.uint8(255)
    Image.fromarray(image).save(path, compress_level=1)


def _save_npy(values: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, values)


_WRITERS: Mapping[str, Callable[[np.ndarray, Path], None]] = {"png": _save_png, "npy": _save_npy}


def _plain(image_id: str) -> str:
    """Return an image_id as a part of a file's name; the row's number before it makes the name unique."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in image_id)[-100:]


def _placed_findings(record: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    geometry = Geometry(**{name: record[name] for name in _GEOMETRY}, size=size)
    return [_placed(finding, geometry) for finding in record["findings"]]


def _placed(finding: Mapping[str, Any], geometry: Geometry) -> dict[str, Any]:
    box = [finding[name] for name in index.BOX]
    if None not in box:
        box = [round(float(edge), 2) for edge in geometry.box_to_prepared(*box)]
    return {**finding, **dict(zip(index.BOX, box, strict=True))}
