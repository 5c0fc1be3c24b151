"""PNM files (PBM, PGM, PPM), plain and raw: whole samples, 0 to the maximum that the header states."""

import re
from typing import IO

import numpy as np

from mammovae.imageio.decoded_image import UnreadableError, check_size
from mammovae.imageio.raster_samples import ENDS_EARLY

SIGNATURES = tuple(f"P{kind}{space}".encode() for kind in range(1, 7) for space in " \t\n\r#")
"""Weak ones: any text may begin so."""
_HEAD_BYTES = 2**16
_TOKEN = rb"(?:\s|#[^\n\r]*[\n\r])+(\d{1,10})"
_BITMAP_HEAD = re.compile(rb"P[14]" + 2 * _TOKEN + rb"(?:\s|$)")
_HEAD = re.compile(rb"P[2356]" + 3 * _TOKEN + rb"(?:\s|$)")
_COMMENT = re.compile(rb"#[^\n\r]*")


def read_header(file: IO[bytes]) -> tuple[int, int, int]:
    """Return rows, columns and the maximum, and leave the file at its first sample."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    found = (_BITMAP_HEAD if head[1:2] in b"14" else _HEAD).match(head)
    if found is None:
        raise UnreadableError("it is damaged: its header is no PNM header")
    columns, rows, *rest = map(int, found.groups())
    maximum = rest[0] if rest else 1
    check_size(rows, columns)
    if not 1 <= maximum <= 65535:
        raise UnreadableError(f"its header states the maximum {maximum}, not 1 to 65535")
    file.seek(found.end())
    return rows, columns, maximum


def read_samples(file: IO[bytes]) -> tuple[np.ndarray, int]:
    """Return the samples, uint8 or uint16 (rows, columns, 1 or 3 samples), and the maximum; black is 0."""
    rows, columns, maximum = read_header(file)
    file_kind = _kind(file)
    shape = (rows, columns, 3 if file_kind in b"36" else 1)
    content = file.read()
    if file_kind in b"123":
        samples = _plain_samples(content, shape, is_bitmap=file_kind == b"1")
    else:
        samples, content = _raw_samples(content, shape, maximum, is_bitmap=file_kind == b"4")
        if re.match(rb"\s*P[1-6]\s", content[:64]):
            raise UnreadableError("it has several pictures, give one picture a file")
    if samples.max() > maximum:
        raise UnreadableError(f"a value of {samples.max()} is above the maximum that its header states, {maximum}")
    samples = samples.astype(np.uint8 if maximum < 256 else np.uint16, copy=False)
    return (1 - samples if file_kind in b"14" else samples), maximum


def _kind(file: IO[bytes]) -> bytes:
    place = file.tell()
    file.seek(1)
    kind = file.read(1)
    file.seek(place)
    return kind


def _raw_samples(
    content: bytes, shape: tuple[int, int, int], maximum: int, *, is_bitmap: bool
) -> tuple[np.ndarray, bytes]:
    """Return the samples, and what stands behind them."""
    line = -(-shape[1] // 8) if is_bitmap else shape[1] * shape[2]
    dtype = np.dtype("u1" if maximum < 256 else ">u2")
    size = shape[0] * line * dtype.itemsize
    if len(content) < size:
        raise UnreadableError(ENDS_EARLY)
    lines = np.frombuffer(content, dtype, shape[0] * line).reshape(shape[0], line)
    if is_bitmap:
        lines = np.unpackbits(lines, axis=1)[:, : shape[1]]
    return lines.reshape(shape), content[size : size + 64]


def _plain_samples(content: bytes, shape: tuple[int, int, int], *, is_bitmap: bool) -> np.ndarray:
    content = _COMMENT.sub(b" ", content)
    if re.fullmatch(rb"[\d\s]*", content) is None:
        raise UnreadableError("it is damaged: something stands among its numbers that is no number")
    if is_bitmap:  # whose digits need no space between them
        digits = np.frombuffer(content, np.uint8)
        numbers = digits[(digits == ord("0")) | (digits == ord("1"))] - ord("0")
    else:
        numbers = np.fromstring(content, np.int64, sep=" ")
    count = shape[0] * shape[1] * shape[2]
    if len(numbers) < count:
        raise UnreadableError(ENDS_EARLY)
    if len(numbers) > count:
        raise UnreadableError("it holds more numbers than its header states")
    return numbers.reshape(shape)
