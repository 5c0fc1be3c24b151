"""The anomaly maps of score as files: their names, and the folder, which is known as mammovae's own."""

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image

from mammovae.arguments import checked
from mammovae.config import InputError, UsageError
from mammovae.data.geometry import Geometry
from mammovae.report.images import save_overlay
from mammovae.storage import MANIFEST, atomic_write, provenance, read_json, write_json

HEALTHY_LEVEL = 8192  # the value, in maps over source pixels, of the 99.9th percentile of healthy pixels

_LONGEST = 150  # bytes of an image_id in a file's name: a name has 255, and suffixes and writing take some
_ODD_START = re.compile(r"\.|$|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)  # hidden, or a device's
_ODD_END = re.compile(r"\.map$|-[0-9a-f]{12}$")  # of another image's file


@checked
def map_name(image_id: str) -> str:
    """Return what the names of an image's maps begin with: NAME of NAME.png and NAME.map.png.

    It depends on the image_id alone, and no two have the same, not even where a disk takes A for a: it is the image_id,
    if that is a plain lower-case name, else what remains of it with other characters as _, and a hash of it.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in image_id)
    short = plain.encode()[:_LONGEST].decode(errors="ignore")
    is_odd = _ODD_START.match(short)
    if short == image_id.casefold() and not is_odd and not _ODD_END.search(short):
        return image_id
    return f"{'_' if is_odd else ''}{short}-{hashlib.blake2b(image_id.encode(), digest_size=6).hexdigest()}"


def check_folder(folder: Path) -> None:
    """Refuse, with UsageError, a folder for maps that holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--maps {folder} is a file: name a folder")
    if not folder.is_dir() or all(entry.name.startswith(".") for entry in folder.iterdir()):
        return
    if writer(folder) != "score":
        raise UsageError(f"--maps {folder} holds other files: name a new folder, an empty one, or one of such maps")


def claim_folder(folder: Path) -> None:
    """Say in a folder that score writes it, so that no image is looked for in it."""
    if writer(folder) != "score":
        write_json(folder / MANIFEST, {"command": "score", "state": "done", **provenance()})


def writer(folder: Path) -> str | None:
    """Return the command of mammovae that wrote a folder, None for a folder of anything else."""
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError:
        return None
    versions = manifest.get("versions")
    return manifest.get("command") if isinstance(versions, dict) and "mammovae" in versions else None


def save_maps(
    folder: Path,
    image_id: str,
    image: np.ndarray,
    anomaly_map: np.ndarray,
    source: tuple[Geometry, tuple[int, int]],
    level: float,
) -> None:
    """Write a map over the prepared image, and over the source's pixels (its geometry, its shape), 8192 for level."""
    name, (geometry, shape) = map_name(image_id), source
    with atomic_write(folder / f"{name}.png") as partial:
        save_overlay(image, anomaly_map, level, partial)
    ratio = geometry.size // len(anomaly_map)
    enlarged = np.kron(anomaly_map, np.ones((ratio, ratio), np.float32))
    restored = geometry.restore(enlarged, shape)
    stored = np.clip(restored / level * HEALTHY_LEVEL, 0, 65535).astype(np.uint16)
    with atomic_write(folder / f"{name}.map.png") as partial:
        Image.fromarray(stored).save(partial)
