"""Reads one mammogram, DICOM or PNG, TIFF, JPEG, PGM, as 16-bit grey with what its file says of itself."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from mammovae.config import InputError
from mammovae.imageio.decoded_image import DecodedImage, UnreadableError
from mammovae.imageio.dicom_header import read_attributes
from mammovae.imageio.dicom_reader import is_dicom, open_dataset, read_dicom
from mammovae.imageio.raster_reader import raster_size, read_raster

DICOM_SUFFIXES = (".dcm", ".dicom")
RASTER_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".pgm", ".pnm")
IMAGE_SUFFIXES = DICOM_SUFFIXES + RASTER_SUFFIXES


def read(path: Path, min_length: int | None = None) -> DecodedImage:
    """Read one file.

    Refused are damaged and empty files, folders, more than one frame (tomosynthesis), true colour, transparency, and
    numbers without a stated range (floating point, 32 bit).

    Parameters
    ----------
    min_length
        Pixels of the longer side that are enough: where the file's coding allows (JPEG 2000, JPEG), it is decoded at
        the smallest of 1/2, 1/4, ... of its resolution that has so many. None decodes the whole.

    Raises
    ------
    InputError
        One sentence on why the file cannot be read.
    """
    with _one_sentence(path):
        _check_file(path)
        return read_dicom(path, min_length) if is_dicom(path) else read_raster(path, min_length)


def read_header(path: Path) -> dict[str, Any]:
    """Return what DecodedImage.header would hold, without decoding pixels; "rows" is absent where there are none."""
    with _one_sentence(path):
        _check_file(path)
        if is_dicom(path):
            return read_attributes(open_dataset(path, stop_before_pixels=True))
        return raster_size(path)


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
