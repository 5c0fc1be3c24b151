"""Reads one mammogram, DICOM or PNG, TIFF, JPEG, PGM, as 16-bit grey with what its file says of itself."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mammovae.config import InputError
from mammovae.imageio import scaled_decode
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid, UnreadableError, check_size, grey_channel
from mammovae.imageio.dicom_header import read_attributes
from mammovae.imageio.dicom_reader import is_dicom, open_dataset, read_dicom

DICOM_SUFFIXES = (".dcm", ".dicom")
RASTER_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".pgm", ".pnm")
IMAGE_SUFFIXES = DICOM_SUFFIXES + RASTER_SUFFIXES
_RASTER_FORMATS = ("PNG", "TIFF", "JPEG", "PPM")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262


def read(path: Path, min_length: int | None = None) -> DecodedImage:
    """Read one file; InputError says in one sentence why it cannot be read.

    Refused are damaged and empty files, folders, more than one frame (tomosynthesis), true colour, transparency, and
    numbers without a stated range (floating point, 32 bit). min_length is how many pixels of the longer side are
    enough: where the file's coding allows (JPEG 2000, JPEG), it is decoded at the smallest of 1/2, 1/4, ... of its
    resolution that has so many. None decodes the whole.
    """
    with _one_sentence(path):
        _check_file(path)
        return read_dicom(path, min_length) if is_dicom(path) else _read_raster(path, min_length)


def read_header(path: Path) -> dict[str, Any]:
    """Return what DecodedImage.header would hold, without decoding pixels; "rows" is absent where there are none."""
    with _one_sentence(path):
        _check_file(path)
        if is_dicom(path):
            return read_attributes(open_dataset(path, stop_before_pixels=True))
        with Image.open(path, formats=_RASTER_FORMATS) as image:
            return {"rows": image.height, "columns": image.width}


def _read_raster(path: Path, min_length: int | None) -> DecodedImage:
    with Image.open(path, formats=_RASTER_FORMATS) as image:
        check_size(image.height, image.width)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnreadableError(f"it has {frames} pages or frames, give one picture a file")
        notes = ("16-bit colour was read as 8 bit",) if _is_deep_colour(image) else ()
        columns, rows = image.size
        factor = scaled_decode.shrink(image, scaled_decode.fraction(max(image.size), min_length or max(image.size)))
        image.load()
        pixels = _to_grey(image)
    return DecodedImage(pixels, {"rows": rows, "columns": columns}, notes, PixelGrid(rows, columns, factor))


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
        kind = f"{mode} (signed, 32 bit, floating point or colour)"
        raise UnreadableError(f"its pixels are of kind {kind}, save 8 or 16 bit")
    channels = np.asarray(image.convert("RGBA"))
    if channels[..., 3].min() < 255:
        raise UnreadableError("parts of it are transparent, save it without an alpha channel")
    return grey_channel(channels, 255).astype(np.uint16) * np.uint16(257)


def walk(root: Path) -> Iterator[Path]:
    """Yield all files under root in a fixed order, through links to folders, but no hidden ones."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: name the one that holds the images")
    visited = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real_path = os.path.realpath(folder)
        if real_path in visited:
            subfolders.clear()
            continue
        visited.add(real_path)
        # macOS archives double every file under __MACOSX.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def image_files(root: Path) -> list[Path]:
    """Return the files under root that are images by suffix, or DICOM by content, in a fixed order."""
    return [
        path
        for path in walk(root)
        if path.suffix.lower() in IMAGE_SUFFIXES or (path.name != "DICOMDIR" and is_dicom(path))
    ]


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn whatever a file makes its decoder raise into one sentence that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableError as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"cannot read {path}: there is no such file") from None
    except PermissionError:
        raise InputError(f"cannot read {path}: permission is denied") from None
    except UnidentifiedImageError:
        why = "it is damaged or no image of a known kind (DICOM, PNG, TIFF, JPEG, PGM)"
        raise InputError(f"cannot read {path}: {why}") from None
    except Exception as error:  # decoders raise anything: damaged input must be a row, not a crash
        words = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {path}: it is damaged or of an unsupported kind ({words[:400]})") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UnreadableError("it is a folder, name a file in it")
    status = path.stat()
    if not path.is_file():
        raise UnreadableError("it is no regular file")
    if status.st_size == 0:
        raise UnreadableError("the file is empty, fetch it again")
