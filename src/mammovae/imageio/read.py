"""Reads one mammogram, DICOM or PNG, TIFF, JPEG, PNM, as 16-bit grey with what its file says of itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mammovae.config import InputError
from mammovae.imageio.decoded_image import DecodedImage, UnreadableError
from mammovae.imageio.dicom_header import read_attributes
from mammovae.imageio.dicom_reader import collect_pydicom_warnings, is_dicom, open_dataset, read_dicom
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.image_kind import holds_no_image
from mammovae.imageio.raster_reader import HEAD_BYTES, other_format, raster_format, raster_size, read_raster
from mammovae.imageio.raster_samples import ENDS_EARLY
from mammovae.imageio.raw_tree import RawFile, open_raw, raw_file

DICOM_SUFFIXES = (".dcm", ".dicom")
RASTER_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".pgm", ".pnm")
IMAGE_SUFFIXES = DICOM_SUFFIXES + RASTER_SUFFIXES


def read(file: RawFile, min_length: int | None = None, white: int | None = None) -> DecodedImage:
    """Read one file; InputError says in one sentence why it cannot be read.

    Refused are damaged and empty files, folders, more than one frame (tomosynthesis), true colour, transparency, and
    numbers without a stated range (floating point, 32 bit). min_length is how many pixels of the longer side are
    enough: where the file's coding allows (JPEG 2000, JPEG), it is decoded at the smallest of 1/2, 1/4, ... of its
    resolution that has so many. None decodes the whole. white is the value of white in 16-bit PNG and TIFF files,
    whose header does not state it; None is 65,535.
    """
    with _one_sentence(file), open_raw(file) as content:
        head = content.read(HEAD_BYTES)
        if kind := raster_format(head):
            return read_raster(content, kind, min_length, white)
        if is_dicom(head):
            return read_dicom(content, min_length)
        raise UnreadableError(_unknown(head))


def read_header(file: RawFile) -> dict[str, Any] | None:
    """Return what DecodedImage.header would hold, without decoding pixels; "rows" is absent where there are none.

    None is returned for what is no image of a known kind by its content; but InputError is raised where its name's
    suffix promises one.
    """
    is_promised = file.suffix.lower() in IMAGE_SUFFIXES
    if not is_promised and isinstance(file, Path) and file.is_file() and file.stat().st_size == 0:
        return None
    with _one_sentence(file), open_raw(file) as content:
        head = content.read(HEAD_BYTES)
        if kind := raster_format(head):
            try:
                rows, columns = raster_size(content, kind)
            except UnreadableError:
                if is_promised or kind != "PNM":  # as which any text may begin
                    raise
                return None
            return {"rows": rows, "columns": columns}
        if is_dicom(head):
            with collect_pydicom_warnings():
                values = Values(open_dataset(content))
                return None if holds_no_image(values) else read_attributes(values)
        if is_promised:
            raise UnreadableError(_unknown(head))
        return None


def read_headers(root: Path, sources: Sequence[str]) -> list[dict[str, Any] | None]:
    """Read the headers of some files under a root, as worker processes do; {"unreadable": why} for one that fails."""
    headers: list[dict[str, Any] | None] = []
    for source in sources:
        try:
            headers.append(read_header(raw_file(root, source)))
        except InputError as error:
            headers.append({"unreadable": str(error)})
    return headers


def _unknown(head: bytes) -> str:
    if name := other_format(head):
        return f"it is a {name} file by its content: save it as PNG or TIFF of 16 bit"
    return "it is damaged or no image of a known kind (DICOM, PNG, TIFF, JPEG, PNM)"


@contextmanager
def _one_sentence(file: RawFile) -> Iterator[None]:
    """Turn whatever a file makes its decoder raise into one sentence that names the file."""
    try:
        yield
    except (UnreadableError, InputError) as error:
        raise InputError(f"cannot read {file}: {error}") from None
    except Exception as error:  # decoders raise anything: damaged input must be a row, not a crash
        raise InputError(f"cannot read {file}: {plain_reason(error)}") from error


def plain_reason(error: Exception) -> str:
    """Say why a file could not be read; what a decoder itself says is for those who wrote it."""
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case PermissionError():
            return "permission is denied"
        case MemoryError():
            return "it takes more memory than is there, or than a mammogram needs"
        case EOFError():
            return ENDS_EARLY
        case OSError(strerror=str(why)):
            return f"the disk or network does not give it ({why.lower()}), try again"
    return "it is damaged or of an unsupported kind, open it in an image viewer and save it anew"
