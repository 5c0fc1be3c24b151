"""Images at a fraction of their resolution: the low band of JPEG 2000's wavelet, as decoded or made of whole images."""

import io
import struct
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

_SIZ = struct.Struct(">HHIIIIIIIIH")
# Low-pass filters of the wavelets of JPEG 2000 (ISO/IEC 15444-1, annex F): the reversible one, the irreversible one.
_LOW_5_3 = (-0.125, 0.25, 0.75, 0.25, -0.125)
_HALF_9_7 = (0.026748757411, -0.016864118443, -0.078223266529, 0.266864118443)
_LOW_9_7 = (*_HALF_9_7, 0.602949018236, *_HALF_9_7[::-1])


def fraction(length: int, min_length: int) -> int:
    """Return the largest power of two, at most 64, that length / min_length reaches (both in pixels), at least 1."""
    return min(64, 1 << max(0, (length // min_length).bit_length() - 1))


def reduced(codes: np.ndarray, factor: int, bits: int = 16, *, signed: bool = False) -> np.ndarray:
    """Return an image at 1 / factor, a power of two: what `jpeg2000` gives of it when it is coded losslessly.

    So what is measured does not depend on the coding. codes are stored bit patterns of so many bits, uint (rows,
    columns), or greys; returns uint16 (ceil(rows / factor), ceil(columns / factor)), each for the mean of a block.
    """
    sign = np.uint16(signed << bits - 1)
    codes = codes.astype(np.uint16, copy=False)
    return _at_block_centres(_low_band(codes ^ sign if signed else codes, factor), factor, 2**bits - 1) ^ sign


def _low_band(values: np.ndarray, factor: int) -> np.ndarray:
    """Return the low band of the reversible 5/3 wavelet (ISO/IEC 15444-1, annex F) of integers, int32."""
    while factor > 1:
        (rows, columns), down, across = values.shape, _mirrored(len(values)), _mirrored(values.shape[1])
        band = np.empty((-(-rows // 2), -(-columns // 2)), np.int32)
        # A few rows at a time stay in the processor's cache.
        for start in range(0, len(band), 16):
            stop = min(start + 16, len(band))
            strip = _half(values[down[2 * start : 2 * stop + 3]].astype(np.int32))
            wide = np.empty((len(strip), len(across)), np.int32)
            wide[:, 2 : 2 + columns] = strip
            wide[:, :2], wide[:, 2 + columns :] = strip[:, across[:2]], strip[:, across[2 + columns :]]
            band[start:stop] = _half(wide.T).T
        values, factor = band, factor // 2
    return values


def _mirrored(length: int) -> np.ndarray:
    """Return the places on an axis that an octave of the wavelet reads: from -2 to an even end, mirrored."""
    places = np.abs(np.arange(-2, length + length % 2 + 1))
    return np.clip(np.where(places < length, places, 2 * (length - 1) - places), 0, None)


def _half(values: np.ndarray) -> np.ndarray:
    """Return the low band of a lifting step along the first axis, whose length is odd: the even places but the ends."""
    even, odd = values[::2], values[1::2]
    high = even[:-1] + even[1:]
    high >>= 1
    np.subtract(odd, high, out=high)
    low = high[:-1] + high[1:]
    low += 2
    low >>= 2
    low += even[1:-1]
    return low


def jpeg2000(frame: bytes, shape: tuple[int, int], bits: int, signed: bool, factor: int) -> tuple[np.ndarray, int]:
    """Decode a JPEG 2000 codestream (ISO/IEC 15444-1) to what stands for block means, from its low band alone.

    Returns stored bit patterns, uint16 (ceil(rows / factor), ceil(columns / factor)), and the factor. Raises ValueError
    for what full decoding has to look at: another shape (rows, columns), bits or sign than the header states, more
    components, no end.
    """
    if frame[:4] != b"\xff\x4f\xff\x51" or not frame[-2:].rstrip(b"\0").endswith(b"\xd9"):
        raise ValueError("no whole codestream")
    length, _, columns, rows, *origin, _, _, _, _, components = _SIZ.unpack_from(frame, 4)
    if (rows, columns) != shape or any(origin) or components != 1 or frame[42] != (signed << 7 | bits - 1):
        raise ValueError("not the image that the header states")
    levels, reversible = _coding_style(frame, 4 + length)
    halvings = min(factor.bit_length() - 1, levels)
    image: Any = Image.open(io.BytesIO(frame))
    # Pillow's own `reduce` halves odd sizes downwards where the codec does so upwards, and then fails.
    image._size = (-(-columns // 2**halvings), -(-rows // 2**halvings))
    tile = image.tile[0]
    codec, _, *rest = tile.args
    image.tile = [tile._replace(extents=(0, 0, *image.size), args=(codec, halvings, *rest))]
    image.load()
    values = np.asarray(image)
    # Pillow fills 8 or 16 bits from the top, and lifts signed values above 0.
    values = values.astype(np.uint16) >> np.uint16(8 * values.itemsize - bits)
    values = _low_band(values, factor >> halvings)  # what a stream of few levels leaves to do
    codes = _at_block_centres(values, factor, 2**bits - 1, reversible=reversible)
    return (codes ^ np.uint16(1 << bits - 1) if signed else codes), factor


def _at_block_centres(band: np.ndarray, factor: int, white: int, *, reversible: bool = True) -> np.ndarray:
    """Move a low band, whose pixel k is centred on source pixel k factor, to the centres of blocks; uint16 0..white."""
    weights = _weights(factor, reversible=reversible)
    if factor == 1:
        return band.astype(np.uint16, copy=False)
    shifted = np.clip(band, 0, white).astype(np.float32)
    for axis in (0, 1):
        shifted = ndimage.correlate1d(shifted, weights, axis=axis, mode="nearest", origin=-1)
    return np.clip(np.rint(shifted), 0, white).astype(np.uint16)


@cache
def _weights(factor: int, *, reversible: bool) -> np.ndarray:
    """Return how much the pixels -1, 0, 1 and 2 of a low band weigh at the centre of block 0."""
    # Cubic convolution (Keys, IEEE Trans. ASSP 29:1153, 1981): its low pass also leaves about as much noise as a mean.
    t = (factor - 1) / (2 * factor)
    cubic = np.array(
        (
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1,
            -1.5 * t**3 + 2 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        )
    )
    if reversible:
        return cubic
    # The band of the irreversible wavelet is softer: the weights that bring it nearest to what the other one becomes,
    # in images whose power falls with the square of the frequency (hence the sums).
    wanted = np.cumsum(_responses(_LOW_5_3, factor), axis=1).T @ cubic
    given = np.cumsum(_responses(_LOW_9_7, factor), axis=1).T
    others = np.linalg.lstsq(given[:, 1:] - given[:, :1], wanted - given[:, 0])[0]
    return np.array([1 - others.sum(), *others])  # a constant stays what it is


def _responses(low: tuple[float, ...], factor: int) -> np.ndarray:
    """Return how much four neighbours in a low band hold of each source pixel, (4, pixels), the same for any filter."""
    response, spacing = np.ones(1), 1
    while spacing < factor:
        spread = np.zeros(spacing * (len(low) - 1) + 1)
        spread[::spacing] = low
        response, spacing = np.convolve(response, spread), 2 * spacing
    placed = np.zeros((4, 16 * factor))
    for number, row in enumerate(placed):
        start = (number + 6) * factor - len(response) // 2
        row[start : start + len(response)] = response
    return placed


def _coding_style(frame: bytes, offset: int) -> tuple[int, bool]:
    """Return how many halvings a codestream's default coding style (COD) has, and whether by the reversible wavelet."""
    while frame[offset : offset + 2] != b"\xff\x52":
        if offset + 4 > len(frame) or frame[offset] != 0xFF or frame[offset + 1] in (0x90, 0xD9):
            raise ValueError("no coding style")
        offset += 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
    return frame[offset + 9], frame[offset + 13] == 1
