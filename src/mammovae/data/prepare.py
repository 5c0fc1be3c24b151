"""Turns a table of source images into a DATA folder: images, masks, index, failures, contact sheet, manifest."""

import hashlib
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammovae.config import InputError, PrepareSettings, SourceKind, UsageError
from mammovae.data import index
from mammovae.data.finalize import FROM_HEADER, finalize
from mammovae.data.geometry import ChestWall, Geometry, NoBreast
from mammovae.data.measurements import MIN_LENGTH, measure_image
from mammovae.data.segmentation import find_breast
from mammovae.data.sources import SOURCES
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.imageio.read import read
from mammovae.imageio.scaled_decode import fraction, reduced
from mammovae.parallel import pool
from mammovae.report.progress import Progress
from mammovae.storage import MANIFEST, Journal, StageFolder, atomic_write, read_json
from mammovae.version import __version__

JOURNAL = ".rows.jsonl"


@dataclass(frozen=True)
class PreparedImage:
    """One prepared image, and what its file and its pixels say."""

    image: np.ndarray  # uint16 (S, S)
    mask: np.ndarray  # uint8 (S, S), 1 inside the breast
    geometry: Geometry
    chest_wall: ChestWall  # as the source is stored
    fields: dict[str, Any]  # index columns
    digest: str  # of the source's pixels as they were decoded: lossy, or at another resolution, an image has another
    measurements: dict[str, float]  # of measure_image


def prepare_image(path: Path, *, size: int, stretch: bool = False) -> PreparedImage:
    """Read one file and bring its breast into size x size pixels, exactly as prepare does for a data set.

    Raises InputError when the file cannot be read or shows no breast.
    """
    decoded = read(path, min_length=MIN_LENGTH)
    result = prepare_decoded(decoded, size=size, stretch=stretch)
    geometry, grid = result.geometry, decoded.grid
    if grid.factor > 1 and not _is_fine(geometry, grid):
        # Only the image is made of the finer pixels: what is measured does not depend on the size.
        finer = read(path, min_length=ceil(max(grid.rows, grid.columns) * 2 * max(geometry.scale_x, geometry.scale_y)))
        result = replace(result, image=geometry.apply(finer.pixels, finer.grid))
    return result


def prepare_decoded(decoded: DecodedImage, *, size: int, stretch: bool = False) -> PreparedImage:
    """Do prepare_image for an image that is read already. Raises InputError when it shows no breast."""
    # The mask and the measurements need no more than this, and what all take from the same few pixels costs little.
    factor = fraction(max(decoded.pixels.shape), MIN_LENGTH)
    small = reduced(decoded.pixels, factor) if decoded.small is None else decoded.small
    grid = decoded.grid.coarser(factor)
    try:
        breast = find_breast(small)
    except NoBreast as error:
        # A warning such as "for-processing image" is often why.
        raise InputError("; ".join([*decoded.warnings, str(error)])) from error
    geometry = Geometry.fit(breast.mask, breast.chest_wall, size, stretch=stretch, grid=grid)
    pixels, pixel_grid = (small, grid) if _is_fine(geometry, grid) else (decoded.pixels, decoded.grid)
    fields = {name: decoded.header.get(name) for name in FROM_HEADER}
    fields |= {name: value for name, value in asdict(geometry).items() if name in index.COLUMNS}
    fields |= {"rows": grid.rows, "columns": grid.columns, "reason": "; ".join(decoded.warnings) or None}
    fields["mask_pixels"] = int(breast.mask.sum()) * grid.factor**2
    image, mask = geometry.apply(pixels, pixel_grid), geometry.apply_mask(breast.mask, grid)
    digest = hashlib.blake2b(f"{grid.rows} {grid.columns}".encode() + small.tobytes(), digest_size=16).hexdigest()
    measurements = measure_image(small, *breast)
    return PreparedImage(image, mask, geometry, breast.chest_wall, fields, digest, measurements)


def _is_fine(geometry: Geometry, grid: PixelGrid) -> bool:
    """Say whether an image on this grid has two pixels for each prepared one, so that its pixels' edges are lost."""
    return max(geometry.scale_x, geometry.scale_y) * grid.factor <= 0.5


def prepare(  # noqa: PLR0913
    kind: SourceKind,
    root: Path,
    out: Path,
    settings: PrepareSettings,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Do mammovae prepare, and return the manifest's facts (counts and so on)."""
    if "healthy" in settings.model_fields_set and not SOURCES[kind].healthy_rules:
        kinds = ", ".join(name for name, source in SOURCES.items() if source.healthy_rules)
        raise UsageError(f"healthy is a rule for {kinds}: {kind} states itself which images are healthy")
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: name the folder that holds the raw {kind} data")
    frame = _listing(kind, root, settings)
    if frame.empty:
        reads = SOURCES[kind].reads
        raise InputError(f"no image in {root} matches: check --side, --view and the kind ({kind} reads {reads})")
    listing = frame[["image_id", "source", "split", "healthy", "status", "findings"]].to_json(orient="records")
    inputs = {"kind": kind, "root": str(root.resolve()), "listing": hashlib.sha256(listing.encode()).hexdigest()}
    with StageFolder(out, "prepare", settings.model_dump(), inputs) as stage:
        if not stage.done:
            arrays = _Arrays(out, len(frame), settings.size)
            with Journal(out / JOURNAL, f"prepare {__version__}") as journal:
                done = {entry["row"] for entry in journal.entries()}
                left = [row for row in np.flatnonzero(frame["status"] == "ok").tolist() if row not in done]
                sources, absolute_root = frame["source"], root.absolute()  # a worker elsewhere stands in another folder
                tasks = ((row, absolute_root / sources.iloc[row]) for row in left)
                work = partial(_prepare_task, size=settings.size, stretch=settings.stretch)
                places = {"workers": workers, "cluster": cluster, "executor": executor}
                with Progress("preparing", len(left), unit="images") as progress:
                    for (row, _), result in pool.map_unordered(work, tasks, timeout=timeout, **places):
                        journal.add(arrays.store(row, result))
                        progress.advance(1)
                facts = finalize(out, frame, journal.entries(), arrays.images, arrays.masks, settings.seed)
                arrays.finish()
                # Whether mammovae phantom wrote the raw tree, so that no report passes it off as patients.
                source = read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
                stage.finish(phantoms=source.get("command") == "phantom", **facts)
                journal.delete()
        else:
            (out / JOURNAL).unlink(missing_ok=True)  # where a kill came between the last two steps
        return stage.facts()


def _listing(kind: str, root: Path, settings: PrepareSettings) -> pd.DataFrame:
    source = SOURCES[kind]
    frame = source.list_images(root, **({"healthy": settings.healthy} if source.healthy_rules else {}))
    # Sources have read what headers say, so what is null here is unknown, and no match.
    for name, expected in (("side", settings.side), ("view", settings.view)):
        if expected is not None:
            frame = frame[(frame[name] == expected).fillna(False)]
    return frame.head(settings.limit or len(frame)).reset_index(drop=True)


def _prepare_task(task: tuple[int, Path], *, size: int, stretch: bool) -> PreparedImage:
    """Do prepare_image for a row and its file: what worker processes are given."""
    return prepare_image(task[1], size=size, stretch=stretch)


class _Arrays:
    """The images and masks while they are filled; the parent process is their only writer."""

    def __init__(self, out: Path, count: int, size: int) -> None:
        self._out = out
        self.images = self._open("images", np.uint16, (count, size, size))
        self.masks = self._open("masks", np.uint8, (count, size, size))

    def _open(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path, finished_path = self._out / f".{name}.partial.npy", self._out / f"{name}.npy"
        if finished_path.exists():
            finished_path.rename(path)
        if not path.exists():
            (self._out / JOURNAL).unlink(missing_ok=True)
            with atomic_write(path) as partial_path:
                np.lib.format.open_memmap(partial_path, mode="w+", dtype=dtype, shape=shape)
        return np.lib.format.open_memmap(path, mode="r+")

    def store(self, row: int, result: PreparedImage | InputError) -> dict[str, Any]:
        """Store the pixels of one result, and return the line for the journal that says they are there."""
        if isinstance(result, InputError):
            return {"row": row, "fields": {"status": "failed", "reason": str(result)}}
        self.images[row], self.masks[row] = result.image, result.mask
        names = ("fields", "chest_wall", "digest", "measurements")
        return {"row": row} | {name: getattr(result, name) for name in names}

    def finish(self) -> None:
        """Give the arrays their names."""
        for name, array in (("images", self.images), ("masks", self.masks)):
            array.flush()
            (self._out / f".{name}.partial.npy").rename(self._out / f"{name}.npy")
