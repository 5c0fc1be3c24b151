"""A decoded mammogram: its pixels, how they lie on the source, what its header says, and what is odd about it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_PIXELS = 2**27
"""Pixels of the largest image that is read; a film scanned at 50 microns has a quarter of it."""

_CHANNEL_TOLERANCE = 2  # of 255, by which the channels of a grey image may differ: lossy coding in colour leaves that


class UnreadableError(Exception):
    """Why a file is not read, without its name, which `read` adds."""


@dataclass(frozen=True)
class PixelGrid:
    """How pixels lie on a source of rows x columns: each stands for factor x factor source pixels."""

    rows: int
    columns: int
    factor: int = 1

    def coarser(self, factor: int) -> "PixelGrid":
        """Return the grid of an image whose pixels are each factor x factor of this one's."""
        return replace(self, factor=self.factor * factor)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded mammogram."""

    pixels: np.ndarray
    """uint16 (rows, columns): the value after rescale, VOI and inversion, mapped linearly from its output range to
    0..65535 (8 bit x 257), never stretched to the image's own values."""
    header: dict[str, Any]
    """Only what the file says, by names of the index's columns, and modality."""
    warnings: tuple[str, ...]  # sentences on what is odd about a file that could be read
    grid: PixelGrid
    small: np.ndarray | None = None
    """The pixels at the fraction of their resolution that was asked for, where the coding gives the whole only: reduced
    before they became grey, as a codec does it. uint16; None where they are at that fraction already."""
    steps: tuple[str, ...] = ()
    """How stored values became grey, a sentence a step, in order: for `mammovae info`."""
    max_value: int | None = None
    """The largest stored value of a file whose range its header does not state (16-bit PNG, TIFF); else None."""


def white_of(greatest: int) -> int:
    """Return the white of files without a stated range: the least 2^k - 1, from 255 on, that holds their values."""
    return 2 ** max(8, greatest.bit_length()) - 1


def check_size(rows: int, columns: int) -> None:
    """Refuse sizes that no mammogram has, before memory is taken for the pixels."""
    if rows < 1 or columns < 1:
        raise UnreadableError(f"it says that it has {rows} rows and {columns} columns, fetch it again")
    if rows * columns > MAX_PIXELS:
        raise UnreadableError(f"{rows} x {columns} pixels are more than a mammogram has ({MAX_PIXELS} at most)")


def grey_channel(channels: np.ndarray, white: int) -> np.ndarray:
    """Return one channel (rows, columns) of an image whose channels, 0..white, agree but for coding noise."""
    green = channels[..., 1].astype(np.int32)
    if any(np.abs(channels[..., other] - green).max() > _CHANNEL_TOLERANCE * white / 255 for other in (0, 2)):
        raise UnreadableError("it is in colour, give the grey mammogram itself")
    return channels[..., 1]
