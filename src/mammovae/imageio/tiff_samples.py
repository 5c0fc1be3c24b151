"""The samples of a TIFF file: unpacked strip by strip, or tile by tile, whatever their depth, order and planes are.

Of Pillow only the decompression of single strips is used: of whole files it takes 16-bit planes for 8-bit ones,
scrambles what it turns upright, and gives no reason for what it cannot read.
"""

import io
import struct
import zlib
from typing import IO

import numpy as np
from PIL.Image import DecompressionBombError
from PIL.TiffImagePlugin import TiffImageFile

from mammovae.imageio import tiff_file
from mammovae.imageio.decoded_image import UnreadableError, check_size
from mammovae.imageio.raster_samples import DAMAGED, RasterHeader, RasterSamples, exactly
from mammovae.imageio.tiff_file import Layout, Page

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE, _FAX, _BY_BYTES = (8, 32946), (2, 3, 4), (5, 32773, 34925, 50000)
_WITH_PREDICTOR = (*_DEFLATE, 5, 34925, 50000)
_SMALL_TILE = 2**20  # pixels
_UNPACK_AT_ONCE = 2**20  # samples of uneven depth
_REVERSED_BITS = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1).ravel()


def read_header(file: IO[bytes]) -> RasterHeader:
    """Return the size and the orientation."""
    page = tiff_file.main_page(tiff_file.read_pages(file))
    layout = tiff_file.describe_page(page)
    _check_compression(page, layout)
    return RasterHeader(layout.rows, layout.columns, page.orientation)


def read_samples(file: IO[bytes]) -> RasterSamples:
    """Return the samples as stored."""
    page = tiff_file.main_page(tiff_file.read_pages(file))
    layout = tiff_file.describe_page(page)
    _check_compression(page, layout)
    values, white, warnings = _read_blocks(file, page, layout), 2**layout.bits - 1, []
    if layout.photometric == tiff_file.PALETTE:
        values, white = _colours(values[..., 0], page, layout.bits), 255
    elif layout.photometric is None:
        warnings.append("its header does not say whether 0 is black, which was assumed")
    if layout.white is not None and values.max() <= layout.white:
        white = layout.white
    is_stated = layout.bits < 16 or white == layout.white
    is_inverted = layout.photometric == tiff_file.WHITE_IS_ZERO
    return RasterSamples(
        values, white, layout.bits, is_stated, is_inverted, _alpha(page, values), warnings=tuple(warnings)
    )


def _check_compression(page: Page, layout: Layout) -> None:
    compression, bits = layout.compression, layout.bits
    is_known = compression in (tiff_file.UNCOMPRESSED, *_DEFLATE, *_BY_BYTES)
    is_known |= compression in _FAX and bits * layout.samples == 1
    is_known |= compression == tiff_file.JPEG and bits == 8 and layout.samples in (1, 3)
    if not is_known:
        name = tiff_file.COMPRESSIONS.get(compression, f"number {compression}")
        raise UnreadableError(f"unsupported compression ({name}, {bits} bits), save it without one")
    predictor = page.get(tiff_file.PREDICTOR, 1) if compression in _WITH_PREDICTOR else 1
    if predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16)):
        raise UnreadableError(f"unsupported predictor ({predictor}, {bits} bits), save it without compression")
    if page.get(tiff_file.FILL_ORDER, 1) == 2 and compression not in (tiff_file.UNCOMPRESSED, *_FAX, tiff_file.JPEG):
        raise UnreadableError("unsupported order of bits in compressed data, save it without compression")


def _alpha(page: Page, values: np.ndarray) -> int | None:
    """Return which sample is an alpha channel, which a header may leave out to say."""
    count, extra = values.shape[2], page.tags.get(tiff_file.EXTRA_SAMPLES, ())
    found = [count - len(extra) + index for index, kind in enumerate(extra) if kind in (1, 2)]
    if found:
        return found[0]
    return count - 1 if count in (2, 4) and not extra else None


def _colours(indices: np.ndarray, page: Page, bits: int) -> np.ndarray:
    """Return red, green and blue of 8 bits; the tag holds all reds, then all greens and all blues, of 16 bits."""
    table = np.array(page.tags[tiff_file.COLOR_MAP][: 3 << bits], np.uint16).reshape(3, -1).T >> 8
    return table.astype(np.uint8)[indices]


def _read_blocks(file: IO[bytes], page: Page, layout: Layout) -> np.ndarray:
    """Return the samples of all strips or tiles: uint8 or uint16 (rows, columns, samples)."""
    is_tiled = tiff_file.TILE_OFFSETS in page.tags
    height = page.get(tiff_file.TILE_LENGTH if is_tiled else tiff_file.ROWS_PER_STRIP, layout.rows)
    height = height if is_tiled else min(height, layout.rows)
    width = page.get(tiff_file.TILE_WIDTH, 0) if is_tiled else layout.columns
    check_size(height, width)
    if height * width > 4 * layout.rows * layout.columns + _SMALL_TILE:
        raise UnreadableError("it is damaged: its tiles are larger than the picture")
    offsets = page.tags.get(tiff_file.TILE_OFFSETS if is_tiled else tiff_file.STRIP_OFFSETS, ())
    counts = page.tags.get(tiff_file.TILE_BYTES if is_tiled else tiff_file.STRIP_BYTES, ())
    planes, together = (layout.samples, 1) if layout.is_planar else (1, layout.samples)
    down, across = -(-layout.rows // height), -(-layout.columns // width)
    if len(offsets) != planes * down * across or len(counts) not in (0, len(offsets)):
        raise UnreadableError(f"it is damaged: it has {len(offsets)} strips or tiles, not {planes * down * across}")
    if not counts and layout.compression != tiff_file.UNCOMPRESSED:
        raise UnreadableError("it is damaged: it does not say how long its strips or tiles are")
    out = np.empty((layout.rows, layout.columns, layout.samples), np.uint16 if layout.bits > 8 else np.uint8)
    for index, offset in enumerate(offsets):
        plane, place = divmod(index, down * across)
        row, column = place // across * height, place % across * width
        # A strip ends with the image, a tile does not.
        lines = height if is_tiled else min(height, layout.rows - row)
        line_bytes = (width * together * layout.bits + 7) // 8
        stored = exactly(file, counts[index] if counts else lines * line_bytes, offset)
        content = _decompressed(stored, page, layout, (lines, line_bytes), width)
        content = _whole_lines(content, (lines, line_bytes), height)
        block = _unpacked(content, width * together, layout.bits, page.order).reshape(lines, width, together)
        if layout.compression in _WITH_PREDICTOR and page.get(tiff_file.PREDICTOR, 1) == 2:
            block = np.cumsum(block, axis=1, dtype=block.dtype)
        block = block[: layout.rows - row, : layout.columns - column]
        samples = slice(plane, plane + together)
        out[row : row + block.shape[0], column : column + block.shape[1], samples] = block
    return out


def _decompressed(stored: bytes, page: Page, layout: Layout, shape: tuple[int, int], width: int) -> bytes | np.ndarray:
    """Return the bytes of a strip or tile; shape is its lines and their bytes."""
    compression = layout.compression
    if compression == tiff_file.UNCOMPRESSED:
        is_reversed = page.get(tiff_file.FILL_ORDER, 1) == 2
        return _REVERSED_BITS[np.frombuffer(stored, np.uint8)] if is_reversed else stored
    if compression in _DEFLATE:
        try:
            return zlib.decompressobj().decompress(stored, shape[0] * shape[1] + max(shape[0], 8))
        except zlib.error:
            raise UnreadableError(DAMAGED) from None
    if compression in _BY_BYTES:
        return _by_libtiff(stored, page, {258: [8], 262: [1]}, (shape[0], shape[1])).tobytes()
    if compression in _FAX:
        return np.packbits(_by_libtiff(stored, page, {258: [1], 262: [1]}, (shape[0], width)), axis=1).tobytes()
    samples = 1 if layout.is_planar else layout.samples
    photometric = 1 if samples == 1 else layout.photometric or tiff_file.RGB
    return _by_libtiff(stored, page, {258: [8] * samples, 262: [photometric]}, (shape[0], width)).tobytes()


def _by_libtiff(stored: bytes, page: Page, tags: dict[int, list[int]], size: tuple[int, int]) -> np.ndarray:
    """Return what Pillow decodes of a strip or tile, given to it as a little TIFF file of its own."""
    passed_on = (*tiff_file.PASSED_TO_LIBTIFF, tiff_file.COMPRESSION)
    tags = tags | {tag: list(page.tags[tag]) for tag in passed_on if tag in page.tags}
    tags |= {256: [size[1]], 257: [size[0]], 273: [8], 277: [len(tags[258])], 278: [size[0]], 279: [len(stored)]}
    start = 8 + len(stored) + len(stored) % 2
    far = start + 2 + 12 * len(tags) + 4
    entries, values = struct.pack("<H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        kind, letter = (7, "B") if tag == tiff_file.JPEG_TABLES else (3, "H") if tag in (258, 530) else (4, "I")
        field = struct.pack(f"<{len(numbers)}{letter}", *numbers)
        if len(field) > 4:
            field, values = struct.pack("<I", far + len(values)), values + field + bytes(len(field) % 2)
        entries += struct.pack("<HHI4s", tag, kind, len(numbers), field)
    content = struct.pack("<2sHI", b"II", 42, start) + stored + bytes(len(stored) % 2) + entries + bytes(4) + values
    try:
        with TiffImageFile(io.BytesIO(content)) as image:
            return np.asarray(image)
    except DecompressionBombError:
        raise UnreadableError("its strips or tiles are larger than a mammogram, save it without compression") from None
    except (OSError, SyntaxError, ValueError):
        raise UnreadableError(DAMAGED) from None


def _whole_lines(content: bytes | np.ndarray, shape: tuple[int, int], full_lines: int) -> np.ndarray:
    """Return bytes as uint8 (lines, bytes a line); refuse a strip or tile that is not as long as its header states.

    The last strip of an image may be as long as the others, of full_lines.
    """
    expected = shape[0] * shape[1]
    # Longer by a byte or more for each line: the lines may be longer than stated, and the picture sheared.
    if not expected <= len(content) < full_lines * shape[1] + max(shape[0], 8):
        found = "fewer" if len(content) < expected else "more"
        raise UnreadableError(f"its strips or tiles hold {found} bytes than its header states")
    return np.frombuffer(content, np.uint8, expected).reshape(shape)


def _unpacked(content: np.ndarray, width: int, bits: int, order: str) -> np.ndarray:
    """Return the samples of lines of bytes, width a line, which begin at full bytes; the first bit is the highest."""
    if bits == 8:
        return content
    if bits == 16:
        return content.view(f"{order}u2").astype(np.uint16)
    out = np.empty((len(content), width), np.uint16 if bits > 8 else np.uint8)
    weights = (1 << np.arange(bits)[::-1]).astype(out.dtype)
    step = max(1, _UNPACK_AT_ONCE // width)
    for first in range(0, len(content), step):
        digits = np.unpackbits(content[first : first + step], axis=1)[:, : width * bits]
        out[first : first + step] = digits.reshape(-1, width, bits) @ weights
    return out
