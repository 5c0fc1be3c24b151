"""Small valid files of every kind that mammograms come in, each with the same picture of a breast."""

import io
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pydicom.pixels.encoders import RLELosslessEncoder
from tests.fuzz.dicom_bytes import DicomFile, Element
from tests.imageio.lossless_jpeg import to_lossless_jpeg

ROWS, COLUMNS = 96, 72


@lru_cache
def picture(bits: int = 12, signed: bool = False, scale: int = 1) -> np.ndarray:
    """Return a breast at the left edge of a dark film, (96 scale, 72 scale), that uses all of its bits."""
    y, x = np.mgrid[: ROWS * scale, : COLUMNS * scale] / scale
    inside = ((y - ROWS / 2) / (0.42 * ROWS)) ** 2 + (x / (0.7 * COLUMNS)) ** 2
    tissue = 0.45 + 0.2 * np.sin(x / 5) * np.cos(y / 7) + 0.3 * (1 - np.clip(inside, 0, 1))
    grey = np.where(inside < 1, np.clip(tissue, 0.1, 1), 0.0)
    noise = np.random.default_rng(0).normal(0, 0.01, grey.shape) * (inside < 1)
    values = np.rint(np.clip(grey + noise, 0, 1) * (2**bits - 1)).astype(np.int64)
    values[ROWS * scale // 2, 2] = 2**bits - 1
    return (values - (2 ** (bits - 1) if signed else 0)).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def description(values: np.ndarray, bits: int) -> dict[str, Any]:
    """Return the elements of a mammogram with these pixels, but for the pixels."""
    shape = {"Rows": values.shape[0], "Columns": values.shape[1], "SamplesPerPixel": 1}
    if values.ndim == 3:
        shape |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "SOPInstanceUID": "1.2.3.5",
        "StudyInstanceUID": "1.2.3.6",
        "SeriesInstanceUID": "1.2.3.7",
        "Modality": "MG",
        "ImageType": "ORIGINAL\\PRIMARY",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "Maker",
        "PatientID": "p1",
        "PatientAge": "053Y",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "ImagerPixelSpacing": "0.1\\0.1",
        **shape,
        "PhotometricInterpretation": "MONOCHROME2" if values.ndim == 2 else "RGB",
        "BitsAllocated": 8 * values.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
    }


def dicom(
    syntax: str = "explicit",
    bits: int = 12,
    *,
    signed: bool = False,
    scale: int = 1,
    colour: bool = False,
    **values: Any,
) -> DicomFile:
    """Return a mammogram in a transfer syntax; values replace and add elements."""
    pixels = picture(bits, signed, scale)
    pixels = np.repeat(pixels[..., None], 3, axis=2) if colour else pixels
    elements = {name: Element.of(name, value) for name, value in description(pixels, bits).items()}
    if syntax in ("implicit", "explicit", "deflated", "big"):
        vr = "OB" if pixels.itemsize == 1 else "OW"
        elements["PixelData"] = Element.of("PixelData", pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), vr)
        return DicomFile(syntax, elements).with_values(**values)
    return DicomFile(syntax, elements, codestream(syntax, bits, signed, scale)).with_values(**values)


@lru_cache
def codestream(syntax: str, bits: int, signed: bool, scale: int) -> bytes:
    """Return the picture as one of the compressed transfer syntaxes holds it."""
    pixels = picture(bits, signed, scale)
    if syntax == "rle":
        options: Any = {
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "samples_per_pixel": 1,
            "number_of_frames": 1,
        }
        options |= {"bits_allocated": 8 * pixels.itemsize, "bits_stored": bits, "pixel_representation": int(signed)}
        options |= {"photometric_interpretation": "MONOCHROME2"}
        return RLELosslessEncoder.encode(pixels, **options)
    if syntax == "jpeg":
        return _saved(Image.fromarray(pixels), "JPEG", quality=95)
    if syntax.startswith("jpeg-ls"):
        import jpeg_ls

        return bytes(jpeg_ls.encode_array(pixels, lossy_error=3 * (syntax == "jpeg-ls-lossy")))
    if syntax.startswith("jpeg2000"):
        from openjpeg.utils import encode_array

        options: Any = {"compression_ratios": [4], "photometric_interpretation": 2} if syntax == "jpeg2000" else {}
        return encode_array(pixels, bits_stored=bits, **options)
    if syntax == "jpeg-extended":
        from tests.imageio.test_dicom_pixels import flat_jpeg_of_12_bits  # gdcm would write 16 bits, which JPEG has not

        return flat_jpeg_of_12_bits(pixels[::8, ::8], bits)
    return _lossless_jpeg(bits, signed, scale)


def _lossless_jpeg(bits: int, signed: bool, scale: int) -> bytes:
    from pydicom.encaps import get_frame

    with TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.dcm", Path(folder) / "packed.dcm"
        plain.write_bytes(dicom("explicit", bits, signed=signed, scale=scale).encode())
        return get_frame(to_lossless_jpeg(plain, packed).PixelData, 0, number_of_frames=1)


def lut(count: int = 4096, bits: int = 12) -> list[dict[str, Any]]:
    """Return the one item of a LUT sequence: a rising table for inputs from 0."""
    entries = (np.arange(count) * (2**bits - 1) // (count - 1)).astype("<u2")
    return [{"LUTDescriptor": [count, 0, bits], "LUTData": Element.of("LUTData", entries.tobytes(), "OW").value}]


def palette() -> dict[str, Any]:
    """Return the elements of a palette of greys."""
    ramp = (np.arange(256) * 257).astype("<u2").tobytes()
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    tables: dict[str, Any] = {f"{name}Descriptor": [256, 0, 16] for name in names}
    return tables | {f"{name}Data": ramp for name in names} | {"PhotometricInterpretation": "PALETTE COLOR"}


def groups() -> dict[str, Any]:
    """Return the elements of an enhanced object, which say grey, spacing and side in functional groups."""
    shared = {
        "FrameAnatomySequence": [{"FrameLaterality": "L"}],
        "PixelMeasuresSequence": [{"PixelSpacing": "0.1\\0.1"}],
        "PixelValueTransformationSequence": [{"RescaleIntercept": "0", "RescaleSlope": "2", "RescaleType": "US"}],
    }
    frame = {"FrameVOILUTSequence": [{"WindowCenter": "2048", "WindowWidth": "4096"}]}
    names = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.13.1.3", "NumberOfFrames": "1"}
    no_spacing = {"ImagerPixelSpacing": None, "ImageLaterality": None}
    return (
        names | no_spacing | {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": [frame]}
    )


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raster(
    kind: str, bits: int = 8, *, mode: str | None = None, orientation: int | None = None, **options: Any
) -> bytes:
    """Return the picture as a PNG, TIFF, JPEG or PGM."""
    image = Image.fromarray(picture(bits))
    image = image if mode is None else image.convert(mode)
    if orientation is not None and kind != "TIFF":
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    return _saved(image, kind, **options)


def planar_tiff(order: str = "<") -> bytes:
    """Return a TIFF of three planes of 16 bits, uncompressed, in a byte order (TIFF 6.0)."""
    pixels = picture(16).astype(order + "u2").tobytes()
    size = len(pixels)
    tags = [(256, 3, [COLUMNS]), (257, 3, [ROWS]), (258, 3, [16, 16, 16]), (259, 3, [1]), (262, 3, [2])]
    tags += [
        (273, 4, [8, 8 + size, 8 + 2 * size]),
        (277, 3, [3]),
        (278, 3, [ROWS]),
        (279, 4, [size] * 3),
        (284, 3, [2]),
    ]
    start = 8 + 3 * size
    extra_at, extra, entries = start + 2 + 12 * len(tags) + 4, b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", extra_at + len(extra)), extra + packed
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + pixels * 3 + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra


WINDOW = {"WindowCenter": "2048\\1000", "WindowWidth": "4096\\500", "VOILUTFunction": "LINEAR"}
RESCALE = {"RescaleSlope": "1.5", "RescaleIntercept": "-100", "RescaleType": "US"}
DICOM_SAMPLES: dict[str, Callable[[], DicomFile]] = {
    "explicit 8": partial(dicom, "explicit", 8),
    "explicit 12": dicom,
    "explicit 16 signed": partial(dicom, "explicit", 16, signed=True),
    "implicit 12": partial(dicom, "implicit"),
    "implicit 16": partial(dicom, "implicit", 16),
    "big 16": partial(dicom, "big", 16),
    "deflated 12": partial(dicom, "deflated"),
    "window": partial(dicom, **WINDOW),
    "sigmoid": partial(dicom, **WINDOW | {"VOILUTFunction": "SIGMOID"}),
    "rescale": partial(dicom, **RESCALE, **WINDOW),
    "voi lut": partial(dicom, VOILUTSequence=lut()),
    "modality lut": partial(dicom, ModalityLUTSequence=lut()),
    "padding": partial(dicom, PixelPaddingValue=0, PixelPaddingRangeLimit=5),
    "inverted": lambda: dicom(
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
        PixelData=(4095 - picture(12)).tobytes(),
    ),
    "groups": lambda: dicom(**groups()),
    "colour": partial(dicom, "explicit", 8, colour=True),
    "palette": lambda: dicom("explicit", 8, **palette()),
    "implicit window": partial(dicom, "implicit", **WINDOW, **RESCALE),
    "rle 8": partial(dicom, "rle", 8),
    "rle 12": partial(dicom, "rle"),
    "jpeg": partial(dicom, "jpeg", 8),
    "jpeg, large": partial(dicom, "jpeg", 8, scale=20),
    "jpeg extended": partial(dicom, "jpeg-extended"),
    "jpeg lossless 8": partial(dicom, "jpeg-lossless", 8),
    "jpeg lossless 16": partial(dicom, "jpeg-lossless", 16),
    "jpeg-ls 12": partial(dicom, "jpeg-ls"),
    "jpeg-ls lossy": partial(dicom, "jpeg-ls-lossy", 8),
    "jpeg 2000 12": partial(dicom, "jpeg2000-lossless"),
    "jpeg 2000 signed": partial(dicom, "jpeg2000-lossless", 16, signed=True),
    "jpeg 2000 lossy": partial(dicom, "jpeg2000"),
    "jpeg 2000, large": partial(dicom, "jpeg2000", scale=20),
}
"""DICOM files by what they show of the standard."""
RASTER_SAMPLES: dict[str, Callable[[], bytes]] = {
    "png 8": partial(raster, "PNG"),
    "png 16": partial(raster, "PNG", 16),
    "png 12 in 16": lambda: _saved(Image.fromarray(picture(12)), "PNG"),
    "png rgb": partial(raster, "PNG", mode="RGB"),
    "png palette": partial(raster, "PNG", mode="P"),
    "png alpha": partial(raster, "PNG", mode="LA"),
    "png turned": partial(raster, "PNG", orientation=6),
    "tiff 8": partial(raster, "TIFF"),
    "tiff 16": partial(raster, "TIFF", 16),
    "tiff lzw": partial(raster, "TIFF", 16, compression="tiff_lzw"),
    "tiff deflate": partial(raster, "TIFF", compression="tiff_adobe_deflate"),
    "tiff turned": partial(raster, "TIFF", tiffinfo={274: 6}),
    "tiff planar": planar_tiff,
    "tiff planar, big-endian": partial(planar_tiff, ">"),
    "tiff white is 0": lambda: _saved(Image.fromarray(65535 - picture(16)), "TIFF", tiffinfo={262: 0}),
    "jpeg": partial(raster, "JPEG"),
    "jpeg turned": partial(raster, "JPEG", orientation=6),
    "jpeg rgb": partial(raster, "JPEG", mode="RGB"),
    "pgm 8": partial(raster, "PPM"),
    "pgm 16": partial(raster, "PPM", 16),
}
"""Other pictures by what they show of their format."""
SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "pgm": ".pgm"}
