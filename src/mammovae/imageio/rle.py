"""DICOM's run length coding (PS3.5 annex G), decoded and compared with the rows that the header states."""

import struct

import numpy as np

from mammovae.imageio.decoded_image import UnreadableError

_HEADER = 64  # bytes: the number of segments, and where each begins
_LENGTHS = np.array([*range(1, 129), 0, *range(128, 1, -1)], np.int64)
"""By a packet's first byte: the pixels that it stands for."""
_PACKETS_AT_A_TIME = 2**16


def segment_offsets(frame: bytes) -> list[int]:
    """Return where the segments of a frame begin, or UnreadableError where its header is none."""
    if len(frame) < _HEADER:
        raise UnreadableError("its RLE data are cut off within their header, fetch the file again")
    count, *offsets = struct.unpack_from("<16I", frame)
    offsets = offsets[: min(count, 15)]
    if not 1 <= count <= 15 or offsets[0] != _HEADER or sorted(offsets) != offsets or offsets[-1] >= len(frame):
        raise UnreadableError("its RLE data have a damaged header, fetch the file again")
    return offsets


def decode(frame: bytes, rows: int, columns: int, samples: int = 1) -> tuple[np.ndarray, list[str]]:
    """Return pixels, uint8 or uint16 (rows, columns) or (rows, columns, samples), and what was odd."""
    offsets = segment_offsets(frame)
    if len(offsets) not in (samples, 2 * samples):
        raise UnreadableError(
            f"its RLE data have {len(offsets)} segments, SamplesPerPixel {samples} makes {samples} or {2 * samples}"
        )
    planes, warnings = [], []
    for start, end in zip(offsets, [*offsets[1:], len(frame)], strict=True):
        content, headers = _decode_segment(frame[start:end], rows * columns)
        left_over = len(content) - rows * columns
        if left_over >= min(rows, columns):
            raise UnreadableError(f"its RLE data hold more than {rows} x {columns} pixels: Rows or Columns are wrong")
        warnings += [f"{left_over} bytes of its RLE data are left over"] * (left_over > 0)
        warnings += _check_rows(headers, rows, columns)
        planes.append(np.frombuffer(content, np.uint8, rows * columns).reshape(rows, columns))
    if len(planes) == 2 * samples:
        planes = [_join(high, low) for high, low in zip(planes[::2], planes[1::2], strict=True)]
    return planes[0] if samples == 1 else np.stack(planes, axis=-1), list(dict.fromkeys(warnings))


def _join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    pixels = high.astype(np.uint16)
    pixels <<= 8
    pixels |= low
    return pixels


def _decode_segment(segment: bytes, length: int) -> tuple[bytearray, bytearray]:
    """Return the bytes that a segment stands for, at least `length`, and the first byte of each of its packets."""
    content, headers, position = bytearray(), bytearray(), 0
    extend, append = content.extend, headers.append
    try:
        while len(content) <= length:  # looked at now and then alone, because this is the inner loop of all RLE
            for _ in range(_PACKETS_AT_A_TIME):
                header = segment[position]
                append(header)
                if header < 128:
                    stop = position + 2 + header
                    extend(segment[position + 1 : stop])
                    position = stop
                elif header > 128:
                    extend(segment[position + 1 : position + 2] * (257 - header))
                    position += 2
                else:
                    position += 1
    except IndexError:  # the end of the segment
        pass
    found = len(content)
    # The zero byte that fills a segment to an even length reads as a packet of one pixel without its pixel.
    if found < length:
        raise UnreadableError(
            f"its RLE data end after {found:,} of {length:,} pixels: they are truncated, or Rows or Columns are wrong"
        )
    return content, headers


def _check_rows(headers: bytearray, rows: int, columns: int) -> list[str]:
    """Compare where packets end with where rows do (each row is coded for itself, G.3.1)."""
    lengths = _LENGTHS[np.frombuffer(headers, np.uint8)]
    ends = np.zeros(rows * columns + 1, bool)
    # What lies behind the last row is none of these rows.
    ends[np.minimum(np.cumsum(lengths), rows * columns)] = True
    if ends[::columns][1:].all():
        return []
    if rows != columns and ends[::rows][1:].all():
        raise UnreadableError(
            f"its RLE data have rows of {rows} pixels where Columns says {columns}: Rows and Columns are exchanged"
        )
    return ["runs of its RLE data go beyond the ends of rows, so that Columns could not be checked"]
