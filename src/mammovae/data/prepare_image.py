"""One file brought into a prepared image: read, breast found, cropped, resized and measured."""

import hashlib
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mammovae.config import InputError
from mammovae.data.geometry import ChestWall, Geometry, NoBreast
from mammovae.data.measurements import MIN_LENGTH, measure_image
from mammovae.data.segmentation import find_breast
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid
from mammovae.imageio.raw_tree import RawFile
from mammovae.imageio.read import read, read_headers
from mammovae.imageio.scaled_decode import fraction, reduced

UNSTATED_RANGE_SUFFIXES = (".png", ".tif", ".tiff")
"""Suffixes of files that may have 16 bits and not say what is white."""
FROM_HEADER = ("study_id", "patient_id", "side", "view", "age", "vendor", "model", "mm_per_pixel", "kind")
"""Columns of the index that a file's header may fill where the listing says nothing."""


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
    max_value: int | None  # of DecodedImage


def prepare_image(file: RawFile, *, size: int, stretch: bool = False, white: int | None = None) -> PreparedImage:
    """Read one file and bring its breast into size x size pixels, exactly as prepare does for a data set.

    white is that of files which do not state their range; see `mammovae.imageio.read.read`. Raises InputError when the
    file cannot be read or shows no breast.
    """
    decoded = read(file, MIN_LENGTH, white)
    result = prepare_decoded(decoded, size=size, stretch=stretch)
    geometry, grid = result.geometry, decoded.grid
    if grid.factor > 1 and not _is_fine(geometry, grid):
        # Only the image is made of the finer pixels: what is measured does not depend on the size.
        length = max(grid.rows, grid.columns) * 2 * max(geometry.scale_x, geometry.scale_y)
        finer = read(file, ceil(length), white)
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
    fields |= {name: value for name, value in asdict(geometry).items() if name != "size"}
    fields |= {"rows": grid.rows, "columns": grid.columns, "reason": "; ".join(decoded.warnings) or None}
    fields["mask_pixels"] = int(breast.mask.sum()) * grid.factor**2
    image, mask = geometry.apply(pixels, pixel_grid), geometry.apply_mask(breast.mask, grid)
    digest = hashlib.blake2b(f"{grid.rows} {grid.columns}".encode() + small.tobytes(), digest_size=16).hexdigest()
    measurements = measure_image(small, *breast)
    return PreparedImage(image, mask, geometry, breast.chest_wall, fields, digest, measurements, decoded.max_value)


def _is_fine(geometry: Geometry, grid: PixelGrid) -> bool:
    """Say whether an image on this grid has two pixels for each prepared one, so that its pixels' edges are lost."""
    return max(geometry.scale_x, geometry.scale_y) * grid.factor <= 0.5


@dataclass(frozen=True)
class Unprepared:
    """Why a file without a stated range could not be prepared, and the greatest of its values."""

    reason: str
    max_value: int

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


class HeadersTask(NamedTuple):
    """Files under a root whose headers are to be read."""

    root: Path
    sources: tuple[str, ...]


class RowTask(NamedTuple):
    """A row of the index and its file; white is final where it cannot turn out to be too small."""

    row: int
    file: RawFile
    white: int | None
    is_white_final: bool


def do_task(task: HeadersTask | RowTask, *, size: int, stretch: bool) -> Any:
    """Read headers, or prepare an image: what worker processes are given, in a module that is quickly imported."""
    return read_headers(*task) if isinstance(task, HeadersTask) else _prepare_row(task, size, stretch)


def _prepare_row(task: RowTask, size: int, stretch: bool) -> PreparedImage | Unprepared:
    """Do prepare_image; of a file that fails, its greatest value is said, for white may have been too small."""
    try:
        return prepare_image(task.file, size=size, stretch=stretch, white=task.white)
    except InputError as error:
        is_stated = task.is_white_final or task.file.suffix.lower() not in UNSTATED_RANGE_SUFFIXES
        greatest = None if is_stated else read(task.file).max_value
        if greatest is None:
            raise
        return Unprepared(str(error), greatest)
