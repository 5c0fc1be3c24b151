"""Reads PNG, TIFF, JPEG, PGM files."""

from pathlib import Path

import numpy as np
from PIL import Image

from mammovae.imageio import scaled_decode
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid, UnreadableError, check_size, grey_channel

_FORMATS = ("PNG", "TIFF", "JPEG", "PPM")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262


def read_raster(path: Path, min_length: int | None) -> DecodedImage:
    """Read a file of a raster format; for min_length see `mammovae.imageio.read.read`."""
    with Image.open(path, formats=_FORMATS) as image:
        check_size(image.height, image.width)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnreadableError(f"it has {frames} pages or frames, give one picture a file")
        warnings = ("16-bit colour was read as 8 bit",) if _is_deep_colour(image) else ()
        columns, rows = image.size
        factor = 1
        if min_length is not None:
            factor = scaled_decode.shrink(image, scaled_decode.fraction(max(image.size), min_length))
        image.load()
        pixels = _to_grey(image)
    return DecodedImage(pixels, {"rows": rows, "columns": columns}, warnings, PixelGrid(rows, columns, factor))


def raster_size(path: Path) -> dict[str, int]:
    """Return the rows and columns that a file's header states."""
    with Image.open(path, formats=_FORMATS) as image:
        return {"rows": image.height, "columns": image.width}


def _is_deep_colour(image: Image.Image) -> bool:
    """Say whether Pillow will halve the bits of this file's channels."""
    raw_modes = [str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in mode for mode in raw_modes)


def _to_grey(image: Image.Image) -> np.ndarray:
    """Return a loaded image as uint16 (rows, columns), its range mapped to 0..65535."""
    mode = image.mode
    tags = getattr(image, "tag_v2", {})
    if mode == "1":
        return np.asarray(image).astype(np.uint16) * np.uint16(65535)
    if mode == "L":
        return np.asarray(image).astype(np.uint16) * np.uint16(257)
    if mode.startswith("I;16") and mode != "I;16S":
        # Pillow keeps 12-bit TIFF as 0..4095 and, of 16 bit, forgets that white may be 0.
        white = 2 ** (tags.get(_TIFF_BITS, (16,))[0]) - 1
        values = np.asarray(image).astype(np.uint32)
        values = white - values if tags.get(_TIFF_PHOTOMETRIC) == 0 else values
        return np.rint(values * (65535 / white)).astype(np.uint16)
    if mode == "I" and image.format == "PPM":
        return np.asarray(image).astype(np.uint16)
    if mode not in ("P", "PA", "RGB", "RGBA", "LA"):
        raise UnreadableError(
            f"its pixels are of kind {mode} (signed, 32 bit, floating point or colour), save 8 or 16 bit"
        )
    channels = np.asarray(image.convert("RGBA"))
    if channels[..., 3].min() < 255:
        raise UnreadableError("parts of it are transparent, save it without an alpha channel")
    return grey_channel(channels, 255).astype(np.uint16) * np.uint16(257)
