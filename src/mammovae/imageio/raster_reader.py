"""Reads PNG, TIFF, JPEG and PNM files: turned upright, as one grey channel, its range mapped to 0..65535."""

from typing import IO

import numpy as np

from mammovae.imageio import jpeg_file, png_file, pnm_file, tiff_samples
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid, UnreadableError, grey_channel, white_of
from mammovae.imageio.raster_samples import RasterHeader, RasterSamples
from mammovae.imageio.scaled_decode import fraction, reduced

HEAD_BYTES = 132
"""Bytes by which the kind of a file is told."""
_SIGNATURES = {
    "PNG": (png_file.SIGNATURE,),
    "TIFF": tiff_samples.SIGNATURES,
    "JPEG": (jpeg_file.SIGNATURE,),
    "PNM": pnm_file.SIGNATURES,
}
_OTHER_SIGNATURES = {
    "GIF": (b"GIF8",),
    "BMP": (b"BM",),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG-LS": (b"\xff\xd8\xff\xf7",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG XR": (b"II\xbc",),
    "PSD": (b"8BPS",),
    "PFM": (b"PF\n", b"Pf\n"),
    "PAM": (b"P7\n",),
    "FITS": (b"SIMPLE",),
    "NRRD": (b"NRRD",),
    "MetaImage": (b"ObjectType", b"NDims"),
    "HDF5": (b"\x89HDF",),
    "NumPy": (b"\x93NUMPY",),
    "PDF": (b"%PDF",),
    "gzip": (b"\x1f\x8b",),
    "zip": (b"PK\x03\x04",),
    "HTML": (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
    "XML": (b"<?xml",),
}
_LOW_SHARE = 16
_ROWS_AT_ONCE = 512
_TURNS = {  # by orientation: first exchange rows and columns, then reverse the rows, then the columns
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def raster_format(head: bytes) -> str | None:
    """Return the kind of raster file, by its first bytes; None where it is none that can be read."""
    # The preamble of a DICOM file may be that of a TIFF file, and JPEG-LS begins as JPEG does.
    if head[128:132] == b"DICM" or other_format(head):
        return None
    return next((name for name, starts in _SIGNATURES.items() if head.startswith(starts)), None)


def other_format(head: bytes) -> str | None:
    """Return the name of a kind of file that cannot be read, by its first bytes; None for an unknown one."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] == b"avif" else "HEIF"
    return next((name for name, starts in _OTHER_SIGNATURES.items() if head.startswith(starts)), None)


def raster_size(file: IO[bytes], kind: str) -> tuple[int, int]:
    """Return rows and columns of the upright picture, without decoding it."""
    return _upright_size(_read_header(file, kind))


def read_raster(file: IO[bytes], kind: str, min_length: int | None, white: int | None) -> DecodedImage:
    """Read a raster file of a kind; for min_length and white see `mammovae.imageio.read.read`."""
    header = _read_header(file, kind)
    samples = _read_samples(file, kind, header)
    steps, warnings = [f"{samples.bits} bits a sample are stored"], list(samples.warnings)
    values = _one_channel(samples, steps)
    max_value = None if samples.is_range_stated else int(values.max())
    pixels, small = _to_grey(values, samples, white, steps), None
    if min_length is not None and samples.white == 255 and (factor := fraction(max(values.shape), min_length)) > 1:
        small = _to_grey(reduced(values, factor, 8), samples, white, [])
    if white is None and max_value is not None and max_value < 2**samples.bits // _LOW_SHARE:
        warnings.append(
            f"all values lie below 1/{_LOW_SHARE} of the range of {samples.bits} bits, as where 12 bits were saved"
            " unscaled: see --white"
        )
    if white is not None and max_value is not None and white < samples.white:
        warnings.append(f"white was taken as {white} of {samples.white}")
    if header.orientation in _TURNS:
        pixels = np.ascontiguousarray(_upright(pixels, header.orientation))
        small = None  # reduced anew: turned about, blocks would begin at the other end
        remark = f"turned upright as its orientation tag {header.orientation} says"
        warnings.append(remark)
        steps.append(remark)
    rows, columns = _upright_size(header)
    shape = {"rows": rows, "columns": columns}
    return DecodedImage(pixels, shape, tuple(warnings), PixelGrid(rows, columns), small, tuple(steps), max_value)


def _read_header(file: IO[bytes], kind: str) -> RasterHeader:
    if kind == "PNM":
        return RasterHeader(*pnm_file.read_header(file)[:2])
    return {"PNG": png_file, "TIFF": tiff_samples, "JPEG": jpeg_file}[kind].read_header(file)


def _read_samples(file: IO[bytes], kind: str, header: RasterHeader) -> RasterSamples:
    if kind == "JPEG":
        return jpeg_file.read_samples(file, header)
    if kind == "PNM":
        values, maximum = pnm_file.read_samples(file)
        return RasterSamples(values, maximum, maximum.bit_length())
    return (png_file if kind == "PNG" else tiff_samples).read_samples(file)


def _one_channel(samples: RasterSamples, steps: list[str]) -> np.ndarray:
    """Return the grey values as stored (rows, columns); refuse colour and transparency."""
    values = samples.values
    if samples.alpha is not None and values[..., samples.alpha].min() < samples.white:
        raise UnreadableError("parts of it are transparent, save it without an alpha channel")
    if values.shape[2] < 3:
        return values[..., 0]
    # Channels may differ by a share of the range; of 12 bits in 16, that is a share of the 12 bits.
    used = samples.white if samples.is_range_stated else white_of(int(values[..., :3].max()))
    for first in range(0, len(values), _ROWS_AT_ONCE):
        grey_channel(values[first : first + _ROWS_AT_ONCE], used)
    steps.append("red, green and blue agree, green was taken")
    return values[..., 1]


def _to_grey(values: np.ndarray, samples: RasterSamples, white: int | None, steps: list[str]) -> np.ndarray:
    """Map 0..white to 0..65535."""
    top = samples.white
    if not samples.is_range_stated:
        steps.append(f"its header does not state the range, white is {white or top}")
        top = white or top
        if values.max() > top:
            raise UnreadableError(
                f"a value of {values.max()} is above white, {top}: leave --white out, or give one that no value exceeds"
            )
    if samples.white_is_zero:
        steps.append("inverted, since 0 is white by its header")
    steps.append(f"0..{top} was mapped to 0..65535")
    if 65535 % top == 0:
        pixels = values.astype(np.uint16) * np.uint16(65535 // top)
        return ~pixels if samples.white_is_zero else pixels
    table = np.rint(np.arange(top + 1) * (65535 / top)).astype(np.uint16)
    table = table[::-1] if samples.white_is_zero else table
    pixels = np.empty(values.shape, np.uint16)
    for first in range(0, len(values), _ROWS_AT_ONCE):  # looked up at once, they would be copied as 64 bits
        pixels[first : first + _ROWS_AT_ONCE] = table[values[first : first + _ROWS_AT_ONCE]]
    return pixels


def _upright_size(header: RasterHeader) -> tuple[int, int]:
    is_turned = _TURNS.get(header.orientation, (False,))[0]
    return (header.columns, header.rows) if is_turned else (header.rows, header.columns)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    exchange, reverse_rows, reverse_columns = _TURNS[orientation]
    pixels = pixels.T if exchange else pixels
    pixels = pixels[::-1] if reverse_rows else pixels
    return pixels[:, ::-1] if reverse_columns else pixels
