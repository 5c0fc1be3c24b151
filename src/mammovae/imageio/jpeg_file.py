"""JPEG files (ITU-T T.81): what their markers say before they are decoded."""

import io
import struct
from typing import IO, NamedTuple

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from mammovae.imageio.decoded_image import UnreadableError, check_size
from mammovae.imageio.raster_samples import DAMAGED, ENDS_EARLY, RasterHeader, RasterSamples, exactly
from mammovae.imageio.tiff_file import exif_orientation

SIGNATURE = b"\xff\xd8\xff"
_START_OF_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of frame, of every process
_DECODED = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_PROGRESSIVE, _ARITHMETIC = {0xC2, 0xCA}, 0xC9
_MAX_SCANS = 200  # each of which goes through the whole picture
_MAX_SKIPPED = 2**16  # bytes between two markers; more are those of a file that was not fetched to its end
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class _Frame(NamedTuple):
    marker: int
    bits: int
    rows: int
    columns: int
    components: int


def read_header(file: IO[bytes]) -> RasterHeader:
    """Return the size and the orientation."""
    frame, orientation = _read_markers(file)
    if frame.bits != 8:
        raise UnreadableError(f"it is JPEG of {frame.bits} bits, save it as PNG or TIFF of 16 bit")
    if frame.marker not in _DECODED:
        raise UnreadableError("it is lossless or hierarchical JPEG, save it as PNG or TIFF")
    if frame.components not in (1, 3):
        kind = "CMYK ink" if frame.components == 4 else f"of {frame.components} colours"
        raise UnreadableError(f"its pixels are {kind}, save it in grey")
    check_size(frame.rows, frame.columns)
    # A block takes a bit at least, but for arithmetic coding; what claims to be larger would take memory for nothing.
    if frame.marker < _ARITHMETIC and -(-frame.rows // 8) * -(-frame.columns // 8) > 8 * file.seek(0, io.SEEK_END):
        raise UnreadableError(ENDS_EARLY)
    if frame.marker in _PROGRESSIVE and _count_scans(file) > _MAX_SCANS:
        raise UnreadableError(f"it has more than {_MAX_SCANS} scans, which no picture needs, save it anew")
    return RasterHeader(frame.rows, frame.columns, orientation)


def read_samples(file: IO[bytes], header: RasterHeader) -> RasterSamples:
    """Return the samples as decoded."""
    file.seek(0)
    try:
        with JpegImageFile(file) as image:
            if image.size != (header.columns, header.rows):
                raise UnreadableError("its header contradicts itself: it states several sizes")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
        raise UnreadableError(ENDS_EARLY if "truncated" in str(error) else DAMAGED) from None
    return RasterSamples(values.reshape(*values.shape[:2], -1), 255, 8)


def _count_scans(file: IO[bytes]) -> int:
    """Return how many scans begin; within coded data no marker can stand."""
    file.seek(0)
    count, last = 0, b""
    while piece := file.read(2**20):
        count += (last + piece).count(b"\xff\xda")
        last = piece[-1:]
    return count


def _read_markers(file: IO[bytes]) -> tuple[_Frame, int]:
    """Return the frame and the EXIF orientation from the markers before the first scan."""
    file.seek(2)
    frame, orientation = None, 1
    while True:
        marker = _next_marker(file)
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END:
            raise UnreadableError(ENDS_EARLY)
        length = int.from_bytes(exactly(file, 2), "big")
        content = exactly(file, max(0, length - 2))
        if marker in _FRAMES:
            if len(content) < 6:
                raise UnreadableError("it is damaged: its header states no size")
            frame = _Frame(marker, *struct.unpack_from(">BHHB", content))
        elif marker == _EXIF and content[:6] == b"Exif\0\0":
            orientation = exif_orientation(content)
        elif marker == _START_OF_SCAN:
            if frame is None:
                raise UnreadableError("it is damaged: its header states no size")
            return frame, orientation


def _next_marker(file: IO[bytes]) -> int:
    """Return the next marker, passing by what stands before it."""
    last = b""
    for _ in range(_MAX_SKIPPED):
        byte = file.read(1)
        if last == b"\xff" and byte not in (b"\xff", b"\0", b""):
            return byte[0]
        last = byte
    raise UnreadableError(ENDS_EARLY)
