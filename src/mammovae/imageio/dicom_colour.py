"""Grey that a DICOM file keeps as colour: three equal channels, or a palette of greys."""

from contextlib import suppress
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, convert_color_space, get_decoder

from mammovae.imageio import rle
from mammovae.imageio.codestream import Stream
from mammovae.imageio.decoded_image import UnreadableError, grey_channel
from mammovae.imageio.dicom_pixels import PixelDescription, StoredPixels, decode, uncompressed_bytes
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.pixel_data import PixelData

# One decoder a kind, and gdcm only where nothing else decodes: see stream_decoders.py.
_DECODERS = {
    "JPEG": (uid.JPEGBaseline8Bit, "pillow"),
    "lossless JPEG": (uid.JPEGLosslessSV1, "gdcm"),
    "JPEG-LS": (uid.JPEGLSLossless, "pyjpegls"),
    "JPEG 2000": (uid.JPEG2000Lossless, "pylibjpeg"),
}


def read_colour(
    data: PixelData, stream: Stream | None, pixels: PixelDescription, dataset: Dataset
) -> tuple[np.ndarray, list[str]]:
    """Return the grey, uint16 (rows, columns), of a coloured file whose channels agree, and what was odd."""
    if pixels.photometric == "PALETTE COLOR":
        stored = decode(data, stream, pixels, dataset)
        return _to_grey(_apply_palette(stored, dataset)), stored.warnings
    warnings: list[str] = []
    if stream is not None:
        syntax, plugin = _DECODERS[stream.kind]
        channels = _decode(syntax, encapsulate([stream.content]), _options(pixels, dataset), plugin)
    elif data.is_encapsulated:
        channels, warnings = rle.decode(data.content, pixels.rows, pixels.columns, pixels.samples)
        if pixels.photometric.startswith("YBR"):
            channels = convert_color_space(channels, "YBR_FULL", "RGB")
    else:
        content, warnings = uncompressed_bytes(data, pixels)
        little = dataset.original_encoding[1] is not False
        native = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        channels = _decode(native, content, _options(pixels, dataset) | {"pixel_vr": "OW" if data.is_words else "OB"})
    return _to_grey(channels, 2**pixels.bits_stored - 1), warnings


def _apply_palette(stored: StoredPixels, dataset: Dataset) -> np.ndarray:
    channels: np.ndarray | None = None
    with suppress(Exception):  # pydicom raises anything over a damaged palette
        channels = apply_color_lut(stored.codes, dataset)
    if channels is None or channels.ndim != 3 or channels.shape[2] < 3:  # an empty table is passed over
        raise UnreadableError("its palette (PALETTE COLOR) is damaged or absent, give the grey mammogram itself")
    return channels


def _options(pixels: PixelDescription, dataset: Dataset) -> dict[str, Any]:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": pixels.samples,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.is_signed),
        "photometric_interpretation": pixels.photometric,
        "planar_configuration": int(Values(dataset).integer("PlanarConfiguration") == 1),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }


def _decode(syntax: uid.UID, content: bytes, options: dict[str, Any], plugin: str = "") -> np.ndarray:
    try:
        channels, _ = get_decoder(syntax).as_array(content, decoding_plugin=plugin, **options)
    except MemoryError:
        raise
    except Exception:  # decoders raise anything
        raise UnreadableError("its coloured pixels are damaged, give the grey mammogram itself") from None
    return channels


def _to_grey(channels: np.ndarray, white: int | None = None) -> np.ndarray:
    white = 2 ** (channels.itemsize * 8) - 1 if white is None else white
    if channels.max() > white:
        raise UnreadableError(f"a value of {channels.max()} is above what BitsStored allows, {white}")
    return np.rint(grey_channel(channels, white) * (65535 / white)).astype(np.uint16)
