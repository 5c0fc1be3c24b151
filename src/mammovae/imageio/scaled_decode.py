"""Images at a fraction of their resolution: decoded so where the codec allows, by block means elsewhere."""

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

# Every size is checked before Pillow sees a file; a filter for the while would hold for all threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_SIZ = struct.Struct(">HHIIIIIIIIH")


def fraction(length: int, min_length: int) -> int:
    """Return the largest power of two, at most 64, that length / min_length reaches (both in pixels), at least 1."""
    return min(64, 1 << max(0, (length // min_length).bit_length() - 1))


def block_means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return the mean of each factor x factor block of uint16 pixels, uint16 (ceil(rows / factor), ...).

    A block cut off at the right or lower edge counts as if its last pixels went on.
    """
    padding = [(0, -length % factor) for length in pixels.shape]
    if any(after for _, after in padding):
        pixels = np.pad(pixels, padding, mode="edge")
    down = pixels.reshape(-1, factor, pixels.shape[1]).sum(axis=1, dtype=np.uint32)
    # Strided sums are several times faster than a reduction over a short axis.
    total = sum((down[:, column::factor] for column in range(1, factor)), start=down[:, ::factor])
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint16)


def jpeg2000(frame: bytes, shape: tuple[int, int], bits: int, signed: bool, factor: int) -> tuple[np.ndarray, int]:
    """Decode a JPEG 2000 codestream (ISO/IEC 15444-1) to what stands for block means, from its low band alone.

    Returns stored bit patterns, uint16 (ceil(rows / factor), ceil(columns / factor)), and the factor, or the smaller
    one that the stream's wavelet levels allow. Raises ValueError for what full decoding has to look at: another shape
    (rows, columns), bits or sign than the header states, more components, no end.
    """
    if frame[:4] != b"\xff\x4f\xff\x51" or not frame[-2:].rstrip(b"\0").endswith(b"\xd9"):
        raise ValueError("no whole codestream")
    length, _, columns, rows, *origin, _, _, _, _, components = _SIZ.unpack_from(frame, 4)
    if (rows, columns) != shape or any(origin) or components != 1 or frame[42] != (signed << 7 | bits - 1):
        raise ValueError("not the image that the header states")
    factor = min(factor, 1 << _wavelet_levels(frame, 4 + length))
    image: Any = Image.open(io.BytesIO(frame))
    # Pillow's own `reduce` halves odd sizes downwards where the codec does so upwards, and then fails.
    image._size = (-(-columns // factor), -(-rows // factor))
    tile = image.tile[0]
    codec, _, *rest = tile.args
    image.tile = [tile._replace(extents=(0, 0, *image.size), args=(codec, factor.bit_length() - 1, *rest))]
    image.load()
    values = np.asarray(image)
    # Pillow fills 8 or 16 bits from the top, and lifts signed values above 0.
    values = values.astype(np.uint16) >> np.uint16(8 * values.itemsize - bits)
    codes = np.clip(np.rint(_at_block_centres(values, factor)), 0, 2**bits - 1).astype(np.uint16)
    return (codes ^ np.uint16(1 << bits - 1) if signed else codes), factor


def _at_block_centres(band: np.ndarray, factor: int) -> np.ndarray:
    """Move a low band, whose pixel k is centred on source pixel k factor, to the centres of blocks; float32."""
    # Cubic convolution (Keys, IEEE Trans. ASSP 29:1153, 1981): its low pass also leaves about as much noise as a mean.
    t = (factor - 1) / (2 * factor)
    weights = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    shifted = band.astype(np.float32)
    for axis in (0, 1):
        shifted = ndimage.correlate1d(shifted, weights, axis=axis, mode="nearest", origin=-1)
    return shifted


def _wavelet_levels(frame: bytes, offset: int) -> int:
    """Return the number of halvings that a codestream's default coding style segment (COD) has."""
    while frame[offset : offset + 2] != b"\xff\x52":
        if offset + 4 > len(frame) or frame[offset] != 0xFF or frame[offset + 1] in (0x90, 0xD9):
            raise ValueError("no coding style")
        offset += 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
    return frame[offset + 9]


def jpeg(frame: bytes, shape: tuple[int, int], factor: int) -> tuple[np.ndarray, int]:
    """Decode an 8-bit grey JPEG to nearly block means, uint8, and their factor, at most 8; raises as jpeg2000."""
    with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
        if image.mode != "L" or image.size != shape[::-1]:
            raise ValueError("not the image that the header states")
        factor = shrink(image, factor)
        return np.asarray(image), factor


def shrink(image: Image.Image, factor: int) -> int:
    """Have Pillow decode an opened JPEG at a fraction of its size; return the factor, 1 for any other kind of file."""
    length = max(image.size)
    if image.format != "JPEG" or factor == 1:
        return 1
    image.draft(image.mode, (max(1, image.width // factor), max(1, image.height // factor)))
    return round(length / max(image.size))
