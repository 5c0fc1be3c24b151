"""PNG files (ISO/IEC 15948): of their chunks only those that are the picture are decoded, and the EXIF orientation."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from mammovae.imageio.decoded_image import UnreadableError, check_size
from mammovae.imageio.raster_samples import DAMAGED, ENDS_EARLY, RasterHeader, RasterSamples, exactly
from mammovae.imageio.tiff_file import exif_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_SMALL_CHUNK = 2**20
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_MOST_INFLATED = 1032  # bytes that one of deflate may stand for


class _Chunk(NamedTuple):
    kind: bytes
    offset: int
    length: int


class _Head(NamedTuple):
    columns: int
    rows: int
    bits: int
    colour: int


def read_header(file: IO[bytes]) -> RasterHeader:
    """Return the size and the orientation."""
    chunks = list(_chunks(file))
    head, orientation = _read_head(file, chunks), 1
    for chunk in chunks:
        if chunk.kind == b"acTL" and (frames := int.from_bytes(_content(file, chunk)[:4], "big")) > 1:
            raise UnreadableError(f"it has {frames} frames, give one picture a file")
        if chunk.kind == b"eXIf":
            orientation = exif_orientation(_content(file, chunk))
    return RasterHeader(head.rows, head.columns, orientation)


def read_samples(file: IO[bytes]) -> RasterSamples:
    """Return the samples as stored."""
    chunks = [chunk for chunk in _chunks(file) if chunk.kind in _PICTURE_CHUNKS]
    head = _read_head(file, chunks)
    line_bits = head.columns * head.bits * _CHANNELS[head.colour]
    if sum(chunk.length for chunk in chunks if chunk.kind == b"IDAT") * _MOST_INFLATED < head.rows * line_bits // 8:
        raise UnreadableError(ENDS_EARLY)
    # Text, colour profiles and the like, which may unpack to gigabytes, are not so much as shown to the decoder.
    picture = io.BytesIO()
    picture.write(SIGNATURE)
    for chunk in chunks:
        content = exactly(file, chunk.length + 4, chunk.offset)
        if zlib.crc32(chunk.kind + content[:-4]) != int.from_bytes(content[-4:], "big"):
            raise UnreadableError("it is damaged: a checksum is wrong, fetch it again")
        picture.write(struct.pack(">I4s", chunk.length, chunk.kind) + content)
    try:
        values = _deep_colour(picture, head) if head.bits == 16 and head.colour != _GREY else _plain(picture, head)
    except (OSError, SyntaxError, ValueError, IndexError):
        raise UnreadableError(DAMAGED) from None
    has_key = head.colour != _PALETTE and any(chunk.kind == b"tRNS" for chunk in chunks)
    warnings = ("one value is marked as transparent, which was ignored",) if has_key else ()
    values = values.reshape(head.rows, head.columns, -1)
    white = 2 ** (8 * values.itemsize) - 1  # Pillow brings 1, 2 and 4 bits to 8
    alpha = values.shape[2] - 1 if values.shape[2] in (2, 4) else None
    return RasterSamples(values, white, head.bits, head.bits < 16, alpha=alpha, warnings=warnings)


def _chunks(file: IO[bytes]) -> Iterator[_Chunk]:
    offset = len(SIGNATURE)
    while True:
        length, kind = struct.unpack(">I4s", exactly(file, 8, offset))
        if not kind.isalpha():  # zeros, for one, would be parts without end
            raise UnreadableError("it is damaged: its parts are none of PNG's, fetch it again")
        yield _Chunk(kind, offset + 8, length)
        if kind == b"IEND":
            return
        offset += length + 12


def _content(file: IO[bytes], chunk: _Chunk) -> bytes:
    if chunk.length > _MAX_SMALL_CHUNK:
        raise UnreadableError("it is damaged: a part of its header has no sensible length")
    return exactly(file, chunk.length, chunk.offset)


def _read_head(file: IO[bytes], chunks: list[_Chunk]) -> _Head:
    if chunks[0].kind != b"IHDR" or chunks[0].length != 13:
        raise UnreadableError("it is damaged: it does not begin with its size")
    head = _Head(*struct.unpack(">IIBB", _content(file, chunks[0])[:10]))
    check_size(head.rows, head.columns)
    if head.bits not in _DEPTHS.get(head.colour, ()):
        raise UnreadableError(f"it is damaged: PNG has no {head.bits} bits of colour type {head.colour}")
    return head


def _plain(picture: IO[bytes], head: _Head) -> np.ndarray:
    picture.seek(0)
    with PngImageFile(picture) as image:
        if head.colour == _PALETTE:
            return np.asarray(image.convert("RGBA"))
        return np.asarray(image.convert("L") if head.bits == 1 else image)


def _deep_colour(picture: IO[bytes], head: _Head) -> np.ndarray:
    """Return 16-bit colour or grey with alpha whole, of which Pillow would keep the upper bytes."""
    if head.colour == _GREY_ALPHA:  # four bytes a pixel, as if they were red, green, blue and alpha
        return np.ascontiguousarray(_unpacked(picture, "RGBA", "RGBA")).view(">u2")
    mode = "RGB" if head.colour == _RGB else "RGBA"
    upper, lower = (_unpacked(picture, mode, f"{mode};16{order}").astype(np.uint16) for order in "BL")
    return upper << 8 | lower


def _unpacked(picture: IO[bytes], mode: str, raw_mode: str) -> np.ndarray:
    picture.seek(0)
    with PngImageFile(picture) as image:
        image._mode = mode
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.asarray(image)
