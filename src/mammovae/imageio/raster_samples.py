"""What the readers of PNG, TIFF, JPEG and PNM hand on: samples as stored, and what their header says of them."""

import io
from dataclasses import dataclass
from typing import IO

import numpy as np

from mammovae.imageio.decoded_image import UnreadableError

ENDS_EARLY = "it is damaged: its data end early, fetch it again"
DAMAGED = "it is damaged: its compressed data are wrong, fetch it again"


@dataclass(frozen=True)
class RasterHeader:
    """Rows and columns as stored, and how they lie (1 is upright; TIFF 6.0 and EXIF, tag Orientation)."""

    rows: int
    columns: int
    orientation: int = 1


@dataclass(frozen=True)
class RasterSamples:
    """The samples of a picture as stored: grey, grey and alpha, or red, green, blue and perhaps alpha."""

    values: np.ndarray
    """uint8 or uint16 (rows, columns, samples); not turned."""
    white: int
    """The largest value of the range: what the header states, or what its bits allow."""
    bits: int
    """Bits a sample, as the file has them."""
    is_range_stated: bool = True
    """False where other bits than those that the values fill are usual: 12 of 16."""
    white_is_zero: bool = False
    alpha: int | None = None
    """Which sample is the alpha channel."""
    warnings: tuple[str, ...] = ()


def exactly(file: IO[bytes], size: int, offset: int | None = None) -> bytes:
    """Return that many bytes, from an offset or where the file stands; no memory is taken for what is not there."""
    start = file.tell() if offset is None else offset
    if start + size > file.seek(0, io.SEEK_END):
        raise UnreadableError(ENDS_EARLY)
    file.seek(start)
    return file.read(size)
