"""Reads one mammogram, DICOM or PNG, TIFF, JPEG, PGM, as a 16-bit picture with what its file says of itself."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from mammovae.config import InputError
from mammovae.imageio import scaled_decode
from mammovae.imageio.dicom_header import header_warnings, read_attributes
from mammovae.imageio.dicom_lut import build_lut
from mammovae.imageio.pixel_grid import PixelGrid

DICOM_SUFFIXES = (".dcm", ".dicom")
RASTER_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".pgm", ".pnm")
MAX_PIXELS = 2**27
"""Pixels of the largest picture that is read; a film scanned at 50 microns has a quarter of it."""

# Steps of 255 by which the channels of a grey picture may differ: lossy coding in colour leaves that much.
_CHANNEL_STEPS = 2
_RASTER_FORMATS = ("PNG", "TIFF", "JPEG", "PPM")


@dataclass(frozen=True)
class DecodedImage:
    """A decoded mammogram.

    pixels is uint16 (rows, columns): the value after rescale, VOI and inversion, mapped linearly from its
    output range to 0..65535 (8 bit x 257), never stretched to the image's own values. header holds only what
    the file says: image_id, patient_id, study_id, side, view, age (years), vendor, model, modality,
    mm_per_pixel, rows, columns. remarks are sentences on what is odd about a file that could be read. grid says how
    the pixels lie on the source's, where they were decoded at a fraction of its resolution.
    """

    pixels: np.ndarray
    header: dict[str, Any]
    remarks: tuple[str, ...]
    grid: PixelGrid


class _RefusedError(Exception):
    """Why a file is not read, without its name."""


def read(path: Path, enough: int | None = None) -> DecodedImage:
    """Read one file; InputError says in one sentence why a file cannot be read.

    Where the file's coding allows (JPEG 2000, JPEG), it is decoded at the smallest of 1/2, 1/4, ... of its resolution
    that has enough pixels on the longer side; without enough, whole.

    Refused are damaged and empty files, folders, more than one frame (tomosynthesis), true colour,
    transparency, and numbers without a stated range (floating point, 32 bit).
    """
    with _one_sentence(path):
        _check_file(path)
        return _read_dicom(path, enough) if is_dicom(path) else _read_raster(path, enough)


def read_header(path: Path) -> dict[str, Any]:
    """Return what Picture.header would hold, without decoding pixels; "rows" is absent where there are none."""
    with _one_sentence(path):
        _check_file(path)
        if is_dicom(path):
            return read_attributes(_dataset(path, stop_before_pixels=True))
        with Image.open(path, formats=_RASTER_FORMATS) as image:
            return {"rows": image.height, "columns": image.width}


def is_dicom(path: Path) -> bool:
    """Say whether a file's first bytes are DICOM's: the preamble of PS3.10 7.1, or a bare data set's first element."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    # Files of old archives begin with group 2 or 8 at once, with a VR or an implicit length behind the tag.
    little = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    big = head[:2] in (b"\x00\x02", b"\x00\x08") and head[2:3] == b"\x00"
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    implicit = little and len(head) >= 8 and int.from_bytes(head[4:8], "little") <= 1024
    return head[128:132] == b"DICM" or (little and (explicit or implicit)) or (big and explicit)


def walk(root: Path) -> Iterator[Path]:
    """Yield all files under root in a fixed order, through links to folders; hidden files are left out."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: name the one that holds the images")
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        if here in entered:
            folders.clear()
            continue
        entered.add(here)
        # macOS archives double every file under __MACOSX.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def image_files(root: Path) -> list[Path]:
    """Return the files under root that are images by suffix, or DICOM by content, in a fixed order."""
    suffixes = DICOM_SUFFIXES + RASTER_SUFFIXES
    return [
        path for path in walk(root) if path.suffix.lower() in suffixes or (path.name != "DICOMDIR" and is_dicom(path))
    ]


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn whatever a file makes its decoder raise into one sentence that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _RefusedError as error:
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
        raise _RefusedError("it is a folder, name a file in it")
    status = path.stat()
    if not path.is_file():
        raise _RefusedError("it is no regular file")
    if status.st_size == 0:
        raise _RefusedError("the file is empty, fetch it again")


def _check_size(rows: int, columns: int) -> None:
    if rows < 1 or columns < 1:
        raise _RefusedError(f"it says that it has {rows} rows and {columns} columns")
    if rows * columns > MAX_PIXELS:
        raise _RefusedError(f"{rows} x {columns} pixels are more than a mammogram has ({MAX_PIXELS} at most)")


def _dataset(path: Path, *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=stop_before_pixels)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _read_dicom(path: Path, enough: int | None) -> DecodedImage:
    frames = int(_dataset(path, stop_before_pixels=True).get("NumberOfFrames") or 1)
    if frames > 1:  # before gigabytes of them are read
        raise _RefusedError(f"it has {frames} frames (tomosynthesis or a series), give 2-D mammograms")
    dataset = _dataset(path)
    header = read_attributes(dataset)
    if "PixelData" not in dataset:
        kind = dataset.get("SOPClassUID")
        # The name of an unknown class is whatever bytes the file gives for it.
        what = getattr(kind, "name", kind)
        what = "DICOM object" if what == kind else what
        raise _RefusedError(f"this {what} holds no integer pixel data: it is truncated or no mammogram")
    _check_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
    if not 1 <= int(dataset.BitsStored) <= min(16, int(dataset.BitsAllocated)):
        raise _RefusedError(f"it stores {dataset.BitsStored} of {dataset.BitsAllocated} bits a pixel, not 1 to 16")
    remarks = header_warnings(dataset)
    shades = None
    if enough is not None and dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
        shades = table, more = build_lut(dataset)
        found = _at_a_fraction(dataset, table, enough)
        if found is not None:
            return DecodedImage(table[found[0]], header, (*remarks, *more), found[1])
    stored = pixel_array(dataset, view_only=True)
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        grey, top = _uncoloured(dataset, stored)
        pixels = np.rint(grey * (65535 / top)).astype(np.uint16)
    else:
        pixels = _monochrome(dataset, stored, shades or build_lut(dataset), remarks)
    return DecodedImage(pixels, header, tuple(remarks), PixelGrid(*pixels.shape))


def _at_a_fraction(dataset: Dataset, table: np.ndarray, enough: int) -> tuple[np.ndarray, PixelGrid] | None:
    """Return stored bit patterns at reduced resolution and their grid, or None where the whole must be decoded."""
    shape = (int(dataset.Rows), int(dataset.Columns))
    bits, signed, syntax = (
        int(dataset.BitsStored),
        bool(dataset.PixelRepresentation),
        dataset.file_meta.TransferSyntaxUID,
    )
    factor = scaled_decode.fraction(max(shape), enough)
    # Stored values are averaged before they become grey: where the order of greys is not theirs (padding that is dark
    # beside air that is bright), an average would be neither.
    steps = np.diff(np.roll(table, len(table) // 2 if signed else 0).astype(np.int32))
    if factor == 1 or not ((steps >= 0).all() or (steps <= 0).all()):
        return None
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if syntax in (JPEG2000Lossless, JPEG2000):
            codes, factor = scaled_decode.jpeg2000(frame, shape, bits, signed, factor)
            return codes, PixelGrid(*shape, factor)
        if syntax == JPEGBaseline8Bit and bits == 8 and not signed:
            codes, factor = scaled_decode.jpeg(frame, shape, factor)
            return codes, PixelGrid(*shape, factor)
    except Exception:  # whatever is the matter, the full way says it in its own words
        return None
    return None


def _monochrome(
    dataset: Dataset, stored: np.ndarray, shades: tuple[np.ndarray, list[str]], remarks: list[str]
) -> np.ndarray:
    bits = int(dataset.BitsStored)
    high = int(dataset.get("HighBit", bits - 1))
    if high != bits - 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        remarks.append(f"HighBit {high} contradicts {bits} bits stored, the lowest {bits} bits were read")
    table, more = shades
    remarks += more
    # The table is indexed by bit pattern: native byte order, and without the extension of a sign.
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"uint{stored.itemsize * 8}")
    if bits < stored.itemsize * 8:
        codes = codes & codes.dtype.type(2**bits - 1)
    return table[codes]


def _same_grey(channels: np.ndarray, top: int) -> bool:
    """Say whether the channels (rows, columns, 3) of a picture with values 0..top differ by coding noise alone."""
    allowed = _CHANNEL_STEPS * top / 255
    first = channels[..., 1].astype(np.int32)
    return all(np.abs(channels[..., other] - first).max() <= allowed for other in (0, 2))


def _uncoloured(dataset: Dataset, stored: np.ndarray) -> tuple[np.ndarray, int]:
    """Return one channel (rows, columns) of a coloured file whose channels agree, and its largest value."""
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, dataset)
        bits = stored.itemsize * 8
    if stored.shape[-1] not in (3, 4) or not _same_grey(stored[..., :3], 2**bits - 1):
        raise _RefusedError("it is in colour, give the grey mammogram itself")
    return stored[..., 1], 2**bits - 1


def _read_raster(path: Path, enough: int | None) -> DecodedImage:
    with Image.open(path, formats=_RASTER_FORMATS) as image:
        _check_size(image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise _RefusedError(f"it has {getattr(image, 'n_frames', 1)} pages or frames, give one picture a file")
        remarks = ["16-bit colour was read as 8 bit"] if _is_deep_colour(image) else []
        columns, rows = image.size
        factor = 1 if enough is None else scaled_decode.shrink(image, scaled_decode.fraction(max(image.size), enough))
        image.load()
        pixels = _raster_grey(image)
    return DecodedImage(pixels, {"rows": rows, "columns": columns}, tuple(remarks), PixelGrid(rows, columns, factor))


def _is_deep_colour(image: Image.Image) -> bool:
    """Say whether Pillow will halve the bits of this file's channels."""
    raw = [str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in name for name in raw)


def _raster_grey(image: Image.Image) -> np.ndarray:
    mode = image.mode
    tags = getattr(image, "tag_v2", {})
    if mode == "1":
        return np.asarray(image).astype(np.uint16) * np.uint16(65535)
    if mode == "L":
        return np.asarray(image).astype(np.uint16) * np.uint16(257)
    if mode.startswith("I;16") and mode != "I;16S":
        # Pillow keeps 12-bit TIFF as 0..4095 and, of 16 bit, forgets that white may be 0.
        top = 2 ** (tags.get(258, (16,))[0]) - 1
        values = np.asarray(image).astype(np.uint32)
        values = top - values if tags.get(262) == 0 else values
        return np.rint(values * (65535 / top)).astype(np.uint16)
    if mode == "I" and image.format == "PPM":
        return np.asarray(image).astype(np.uint16)
    if mode not in ("P", "PA", "RGB", "RGBA", "LA"):
        raise _RefusedError(
            f"its pixels are of kind {mode} (signed, 32 bit, floating point or colour), save 8 or 16 bit"
        )
    channels = np.asarray(image.convert("RGBA"))
    if channels[..., 3].min() < 255:
        raise _RefusedError("parts of it are transparent, save it without an alpha channel")
    if not _same_grey(channels[..., :3], 255):
        raise _RefusedError("it is in colour, give the grey mammogram itself")
    return channels[..., 1].astype(np.uint16) * np.uint16(257)
