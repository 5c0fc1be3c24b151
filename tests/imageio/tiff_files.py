"""TIFF files of every layout, written by hand from known samples, so that no other writer's habits are tested."""

import struct
import zlib
from types import SimpleNamespace

import numpy as np

PLAIN = SimpleNamespace(
    order="<", photometric=None, compression=1, planar=False, tile=None, predictor=1, fill_order=1, is_big=False
)
"""The layout that is written where nothing else is said; bits and rows_per_strip are the samples' own."""


def tiff(samples, tags=(), **layout):
    """Return the bytes of a file of one page; samples are (rows, columns) or (rows, columns, samples).

    tags are (tag, type, values) that are added or stand instead of those that would be written; values None drops one.
    """
    samples = samples if samples.ndim == 3 else samples[..., None]
    rows, columns, count = samples.shape
    at = SimpleNamespace(**(vars(PLAIN) | {"bits": samples.itemsize * 8, "rows_per_strip": rows} | layout))
    parts = []
    for plane in np.moveaxis(samples, 2, 0)[..., None] if at.planar else [samples]:
        for block in _blocks(plane, at.tile, at.rows_per_strip):
            block = _differences(block) if at.predictor == 2 else block
            raw = _packed(block, at.bits, at.order)
            raw = bytes(int(f"{byte:08b}"[::-1], 2) for byte in raw) if at.fill_order == 2 else raw
            parts.append(_compressed(raw, at.compression))
    photometric = (1 if count < 3 else 2) if at.photometric is None else at.photometric
    entries = {256: (4, [columns]), 257: (4, [rows]), 258: (3, [at.bits] * count), 259: (3, [at.compression])}
    entries |= {262: (3, [photometric]), 277: (3, [count]), 284: (3, [2 if at.planar else 1])}
    entries |= {317: (3, [at.predictor])} if at.predictor != 1 else {}
    entries |= {266: (3, [at.fill_order])} if at.fill_order != 1 else {}
    entries |= {322: (4, [at.tile]), 323: (4, [at.tile])} if at.tile else {278: (4, [at.rows_per_strip])}
    lengths = [len(part) for part in parts]
    start = 16 if at.is_big else 8
    offsets = [start + sum(lengths[:index]) for index in range(len(parts))]
    entries |= {324 if at.tile else 273: (4, offsets), 325 if at.tile else 279: (4, lengths)}
    entries |= {tag: (kind, values) for tag, kind, values in tags}
    body = b"".join(parts) + b"\0" * (sum(lengths) % 2)
    far = start + len(body)
    return head(at.order, far, at.is_big) + body + directory(entries, far, at.order, at.is_big)


def directory(entries, at, order="<", is_big=False, following=0):
    """Return the bytes of a list of tags, {tag: (type, values)}, that will lie at an offset."""
    entries = {tag: entry for tag, entry in sorted(entries.items()) if entry[1] is not None}
    word, size, count = ("Q", 20, "Q") if is_big else ("I", 12, "H")
    far = at + struct.calcsize(order + count) + size * len(entries) + struct.calcsize(order + word)
    out, extra = struct.pack(order + count, len(entries)), b""
    for tag, (kind, values) in entries.items():
        raw = struct.pack(f"{order}{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        if len(raw) > struct.calcsize(order + word):
            raw, extra = struct.pack(order + word, far + len(extra)), extra + raw + b"\0" * (len(raw) % 2)
        out += struct.pack(order + "HH" + word, tag, kind, len(values)) + raw.ljust(
            struct.calcsize(order + word), b"\0"
        )
    return out + struct.pack(order + word, following) + extra


def head(order, at, is_big=False):
    """Return the first bytes of a file whose list of tags lies at an offset."""
    mark = b"II" if order == "<" else b"MM"
    return mark + (struct.pack(order + "HHHQ", 43, 8, 0, at) if is_big else struct.pack(order + "HI", 42, at))


def _blocks(plane, tile, rows_per_strip):
    if tile is None:
        return [plane[row : row + rows_per_strip] for row in range(0, len(plane), rows_per_strip)]
    padded = np.pad(plane, ((0, -plane.shape[0] % tile), (0, -plane.shape[1] % tile), (0, 0)), mode="edge")
    return [
        padded[row : row + tile, column : column + tile]
        for row in range(0, padded.shape[0], tile)
        for column in range(0, padded.shape[1], tile)
    ]


def _differences(block):
    return np.diff(block, axis=1, prepend=block[:, :1] * 0)


def _packed(block, bits, order):
    if bits in (8, 16, 32):
        return block.astype(f"{order}{block.dtype.kind}{bits // 8}").tobytes()
    lines = block.reshape(len(block), -1)
    digits = (lines[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(len(lines), -1).astype(np.uint8), axis=1).tobytes()


def _compressed(raw, compression):
    if compression in (8, 32946):
        return zlib.compress(raw)
    if compression == 32773:  # literal runs
        return b"".join(bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128] for i in range(0, len(raw), 128))
    if compression == 5:
        return _lzw(raw)
    return raw


def _lzw(raw):
    """Codes of single bytes, cleared before they grow to ten bits."""
    codes = []
    for index, byte in enumerate(raw):
        codes += ([256] if index % 200 == 0 else []) + [byte]
    digits = "".join(f"{code:09b}" for code in [*codes, 257])
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[index : index + 8], 2) for index in range(0, len(digits), 8))
