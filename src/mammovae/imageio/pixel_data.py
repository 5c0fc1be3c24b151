"""The Pixel Data element of a DICOM file as bytes: of one uncompressed image, or of one compressed frame."""

import io
import os
import struct
from typing import IO, NamedTuple

from mammovae.imageio.codestream import count_streams, is_codestream
from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.rle import segment_offsets

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _END = 0xE000, 0xE0DD  # of group FFFE
_FIRST_FRAGMENT = b"\xfe\xff\x00\xe0"
_UNDEFINED = 2**32 - 1
_LONG_VRS = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"}
_MAX_FRAGMENTS = 2**16


class PixelData(NamedTuple):
    """The value of a Pixel Data element."""

    content: bytes
    length: int
    """Bytes that the file holds of it, of which `content` may be the first alone."""
    is_encapsulated: bool
    is_words: bool = False  # stored as 16-bit words, whatever the size of a pixel
    warnings: tuple[str, ...] = ()


def is_at_pixel_data(stream: IO[bytes], *, little: bool) -> bool:
    """Say whether a stream stands before Pixel Data, where it stays."""
    place = stream.tell()
    tag = stream.read(4)
    stream.seek(place)
    return len(tag) == 4 and struct.unpack("<HH" if little else ">HH", tag) == _PIXEL_DATA


def read_pixel_data(stream: IO[bytes], *, implicit: bool, little: bool, longest: int) -> PixelData:
    """Read the element that a stream stands before.

    Of uncompressed data no more than `longest` bytes are read; compressed ones may have no more than that. Raises
    UnreadableError for several frames and for data that are cut off.
    """
    length, vr = _read_head(stream, implicit, little)
    start = stream.tell()
    there = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    if length == _UNDEFINED:
        return _read_fragments(stream, there, longest)
    content = stream.read(min(length, there, longest))
    if content.startswith(_FIRST_FRAGMENT):  # some writers state a length that the standard leaves open
        return _read_fragments(io.BytesIO(content), len(content), longest)
    # Truncated data are found by whoever knows how much is needed.
    too_long = (f"Pixel Data claims {length:,} bytes of which the file holds {there:,}",) if length > there else ()
    return PixelData(content, min(length, there), is_encapsulated=False, is_words=vr == b"OW", warnings=too_long)


def _read_head(stream: IO[bytes], implicit: bool, little: bool) -> tuple[int, bytes]:
    """Return the length and the VR that an element states."""
    order = "<" if little else ">"
    head = stream.read(8)
    vr = head[4:6]
    try:
        if implicit or not (vr.isalpha() and vr.isupper()):  # some writers change to implicit within a file
            return struct.unpack(f"{order}I", head[4:])[0], b"OW"
        if vr not in _LONG_VRS:
            return struct.unpack(f"{order}H", head[6:])[0], vr
        return struct.unpack(f"{order}I", stream.read(4))[0], vr
    except struct.error:
        raise UnreadableError("it ends where its pixel data should begin: it is truncated, fetch it again") from None


def _read_fragments(stream: IO[bytes], there: int, longest: int) -> PixelData:
    """Read encapsulated data (PS3.5 A.4) of one frame, whatever number of fragments it is cut into."""
    fragments: list[bytes] = []
    table, total, warnings = None, 0, []
    while True:
        head = stream.read(8)
        there -= 8
        if there < 0:
            warnings.append("the end of its compressed pixel data is not marked")
            break
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == (0xFFFE, _END):
            break
        if (group, element) != (0xFFFE, _ITEM) or length == _UNDEFINED:
            raise UnreadableError("its compressed pixel data are damaged: what should be a fragment is none")
        if length > there:
            raise UnreadableError("its compressed pixel data are cut off: the file is truncated, fetch it again")
        total += length
        if total > longest:
            raise UnreadableError(f"its compressed pixel data have {total:,} bytes, far more than its pixels need")
        content = stream.read(length)
        there -= length
        if table is None and not _is_frame(content):  # the offsets of frames, which some writers leave out
            table = length // 4
            continue
        table = table or 0
        fragments.append(content)
        if len(fragments) > _MAX_FRAGMENTS:
            raise UnreadableError(f"its compressed pixel data are cut into more than {_MAX_FRAGMENTS:,} fragments")
    frame = b"".join(fragments)
    frames = max(table or 0, _count_frames(fragments, frame))
    if frames > 1:
        raise UnreadableError(several_frames(frames))
    return PixelData(frame, len(frame), is_encapsulated=True, warnings=tuple(warnings))


def _is_frame(fragment: bytes) -> bool:
    """Say whether a fragment begins as a frame does, compressed in any of the known ways."""
    try:
        return is_codestream(fragment) or bool(segment_offsets(fragment))
    except UnreadableError:
        return False


def _count_frames(fragments: list[bytes], frame: bytes) -> int:
    """Return how many frames fragments hold, by their content."""
    if is_codestream(frame):
        return max(sum(map(is_codestream, fragments)), count_streams(frame))
    # Each frame of RLE is one fragment, PS3.5 A.4.2.
    return len(fragments) if all(map(_is_frame, fragments)) else 1


def several_frames(frames: int) -> str:
    """Return why a file of more than one frame is not read."""
    return f"it has {frames} frames (tomosynthesis or a series), give 2-D mammograms"
