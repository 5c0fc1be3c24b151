"""What a compressed frame says of itself, read before any decoder sees it: its kind, size, components, depth, end."""

import struct
from typing import Literal, NamedTuple

from mammovae.imageio.decoded_image import UnreadableError, check_size

StreamKind = Literal["JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000"]

_JPEG_START, _JPEG_2000_START, _END = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\xd9"
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_JPEG_KINDS: dict[int, StreamKind] = {
    0xC0: "JPEG",
    0xC1: "JPEG",
    0xC2: "JPEG",
    0xC3: "lossless JPEG",
    0xF7: "JPEG-LS",
}
# Arithmetic coding and hierarchical modes, which no decoder here knows; C4, C8 and CC are no frame headers.
_UNKNOWN_FRAMES = {0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_SIZ = struct.Struct(">HHIIIIIIIIH")

# A film of 13.6 million pixels without any content, 12 bits deep, is 30,000 to 71,000 pixels a byte of JPEG 2000 and
# 13,000 to 24,000 of JPEG-LS; a smooth half disc on black, at a ratio that no archive uses (2000), is 1,300.
_MAX_PIXELS_A_BYTE = 4096
_SMALL = 2**22  # pixels of an image that costs nothing to decode, whatever is in it
_MAX_SCANS = 100  # of a JPEG: each is a pass over the whole picture
_MAX_TILES, _MAX_TILE_PARTS = 2**14, 2**16
_MAX_PRECINCTS = 2**18  # a film of 27 million pixels in precincts of 32 x 32 has 2**15
_MAX_LEVELS = 32  # of the wavelet, ISO/IEC 15444-1 table A.15


class Stream(NamedTuple):
    """The header of a compressed frame."""

    kind: StreamKind
    rows: int
    columns: int
    components: int
    bits: int
    is_signed: bool
    content: bytes
    """The codestream, without the boxes of a JP2 file around it."""


def is_codestream(frame: bytes) -> bool:
    """Say whether bytes begin as JPEG, JPEG-LS or JPEG 2000 do."""
    return frame[:3] == _JPEG_START or frame[:4] == _JPEG_2000_START or frame[:8] == _JP2_SIGNATURE


def count_streams(frame: bytes) -> int:
    """Return 2 where another stream begins behind the end of the first, else 1."""
    start = _JPEG_START if frame[:3] == _JPEG_START else _JPEG_2000_START
    position = 1
    while (position := frame.find(start, position)) >= 0:
        # A thumbnail within a header has no end right before it.
        if frame[max(0, position - 16) : position].rstrip(b"\0\xff ").endswith((_END, b"\xd9")):
            return 2
        position += 1
    return 1


def read_stream(frame: bytes) -> Stream:
    """Read a stream's own description (ISO/IEC 10918-1, 14495-1, 15444-1).

    Raises UnreadableError where it is damaged, cut off, or of a size that would take a decoder's memory or time without
    holding a picture.
    """
    try:
        stream = _read_jpeg(frame) if frame[:3] == _JPEG_START else _read_jpeg_2000(_unboxed(frame))
    except (IndexError, struct.error):
        raise UnreadableError("its compressed stream is cut off within its header, fetch the file again") from None
    check_size(stream.rows, stream.columns)
    # Over more bits, and over fewer in lossless JPEG, gdcm ends the process.
    fewest = 8 if stream.kind == "lossless JPEG" else 1
    if not fewest <= stream.bits <= 16:
        raise UnreadableError(f"its {stream.kind} stream has {stream.bits} bits a pixel, not {fewest} to 16")
    pixels = stream.rows * stream.columns
    if pixels > max(_SMALL, _MAX_PIXELS_A_BYTE * len(stream.content)):
        size = f"{stream.columns} x {stream.rows} pixels in {len(stream.content)} bytes"
        raise UnreadableError(f"its {stream.kind} stream claims {size}, which no picture with content is")
    return stream


def _read_jpeg(frame: bytes) -> Stream:
    position, found = 2, None
    while (marker := frame[position + 1]) != 0xDA:
        if frame[position] != 0xFF or (marker < 0xC0 and marker != 0x01):
            raise UnreadableError("its JPEG stream is damaged in its header, fetch the file again")
        if marker == 0xFF:  # fill
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker in _UNKNOWN_FRAMES:
            raise UnreadableError(f"its JPEG stream is of a kind that no decoder here knows (SOF{marker - 0xC0})")
        if marker in _JPEG_KINDS and found is None:
            found = _JPEG_KINDS[marker], *struct.unpack_from(">BHHB", frame, position + 4)
        position += 2 + max(2, length)
    if found is None:
        raise UnreadableError("its JPEG stream does not state its size")
    kind, bits, rows, columns, components = found
    if kind == "JPEG" and bits not in (8, 12):
        raise UnreadableError(f"its JPEG stream is damaged: it claims {bits} bits a pixel, not 8 or 12")
    if kind == "JPEG" and frame.count(b"\xff\xda", position) > _MAX_SCANS:
        raise UnreadableError(f"its JPEG stream has more than {_MAX_SCANS} scans, which no picture needs")
    if frame.find(_END, position) < 0:
        raise UnreadableError(f"its {kind} stream has no end: it is truncated, fetch the file again")
    return Stream(kind, rows, columns, components, bits, False, frame)


def _unboxed(frame: bytes) -> bytes:
    """Return the codestream of a JP2 file (ISO/IEC 15444-1 annex I), which DICOM forbids and some writers give."""
    if frame[:8] != _JP2_SIGNATURE:
        return frame
    position = 0
    while position + 8 <= len(frame):
        length, name = struct.unpack_from(">I4s", frame, position)
        header = 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", frame, position + 8), 16
        length = length or len(frame) - position
        if name == b"jp2c":
            return frame[position + header : position + length]
        position += max(header, length)
    raise UnreadableError("its JPEG 2000 file holds no codestream")


def _read_jpeg_2000(frame: bytes) -> Stream:
    if frame[:4] != _JPEG_2000_START:
        raise UnreadableError("its compressed stream is neither JPEG nor JPEG 2000: it is damaged")
    length, _, right, lower, left, upper, *tiling, components = _SIZ.unpack_from(frame, 4)
    depths = {struct.unpack_from("BBB", frame, 42 + 3 * number) for number in range(min(components, 4))}
    columns, rows, tiles = right - left, lower - upper, _count_tiles(right, lower, *tiling)
    check_size(rows, columns)
    if len(depths) > 1 or {steps[1:] for steps in depths} != {(1, 1)}:
        raise UnreadableError("its JPEG 2000 stream has components of different sizes or depths, no grey picture has")
    if not 1 <= tiles <= _MAX_TILES:
        raise UnreadableError(f"its JPEG 2000 stream is cut into {tiles:,} tiles ({_MAX_TILES:,} at most)")
    _check_parts(frame, _check_coding_styles(frame, 4 + length, (columns, rows)), tiles)
    depth = depths.pop()[0]
    return Stream("JPEG 2000", rows, columns, components, (depth & 127) + 1, depth > 127, frame)


def _count_tiles(right: int, lower: int, width: int, height: int, left: int, upper: int) -> int:
    if not width or not height:
        return 0
    return -(-(right - left) // width) * -(-(lower - upper) // height)


def _check_coding_styles(frame: bytes, position: int, size: tuple[int, int]) -> int:
    """Check the main header's coding styles (A.6.1, A.6.2); return where the first tile part begins."""
    while (marker := frame[position : position + 2]) != b"\xff\x90":
        if marker[0] != 0xFF or marker[1] < 0x4F or marker == _END:
            raise UnreadableError("its JPEG 2000 stream is damaged in its header, fetch the file again")
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker == b"\xff\x52":
            _check_coding_style(frame[position + 4] & 1, frame[position + 9 : position + 2 + length], size)
        elif marker == b"\xff\x53":
            _check_coding_style(frame[position + 5] & 1, frame[position + 6 : position + 2 + length], size)
        position += 2 + max(2, length)
    return position


def _check_coding_style(has_precincts: int, style: bytes, size: tuple[int, int]) -> None:
    """Check levels and, where they are stated, precincts of an image of size columns, rows."""
    levels, sizes = style[0], style[5:]
    if levels > _MAX_LEVELS or (has_precincts and len(sizes) != levels + 1):
        raise UnreadableError(f"its JPEG 2000 stream is damaged: it claims {levels} wavelet levels")
    precincts = 0
    for level, exponents in enumerate(sizes if has_precincts else b""):
        across, down = (-(-length // 2 ** (levels - level)) for length in size)
        precincts += -(-across // 2 ** (exponents & 15)) * -(-down // 2 ** (exponents >> 4))
    if precincts > _MAX_PRECINCTS:
        raise UnreadableError(f"its JPEG 2000 stream is cut into {precincts:,} precincts ({_MAX_PRECINCTS:,} at most)")


def _check_parts(frame: bytes, position: int, tiles: int) -> None:
    """Check that the parts of all tiles (A.4.2) are there."""
    seen, parts, last = set(), 0, (0, 0)
    end = len(frame)
    while frame[position : position + 2] == b"\xff\x90":
        tile, length, part, count = struct.unpack_from(">HIBB", frame, position + 4)
        seen.add(tile)
        last, parts = (part, count), parts + 1
        if parts > _MAX_TILE_PARTS:
            raise UnreadableError(f"its JPEG 2000 stream has more than {_MAX_TILE_PARTS:,} tile parts")
        if length == 0:  # up to the end of the stream
            position = end if frame[-16:].rstrip(b"\0\xff ").endswith(b"\xd9") else end + 1
            break
        if length < 14:
            raise UnreadableError("its JPEG 2000 stream is damaged: a tile part is shorter than its own header")
        position += length
    # Some writers leave out the marker of the end; what counts is that no part of a tile is missing.
    is_whole = position <= end and len(seen) == tiles and (last[0] + 1 >= last[1] or position < end)
    if not is_whole:
        raise UnreadableError("its JPEG 2000 stream has no end: it is truncated, fetch the file again")
