"""Reads DICOM files: which files are DICOM, their headers, and their pixels at full or reduced resolution."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array

from mammovae.imageio import scaled_decode
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid, UnreadableError, check_size, grey_channel
from mammovae.imageio.dicom_header import header_warnings, read_attributes
from mammovae.imageio.dicom_lut import build_lut


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


def open_dataset(path: Path, *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    """Return a file's data set, with a transfer syntax where the file names none."""
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=stop_before_pixels)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    return dataset


def read_dicom(path: Path, min_length: int | None) -> DecodedImage:
    """Read a DICOM image; for min_length see `mammovae.imageio.read.read`."""
    frames = int(open_dataset(path, stop_before_pixels=True).get("NumberOfFrames") or 1)
    if frames > 1:  # before gigabytes of them are read
        raise UnreadableError(f"it has {frames} frames (tomosynthesis or a series), give 2-D mammograms")
    dataset = open_dataset(path)
    header, warnings = read_attributes(dataset), header_warnings(dataset)
    _check_pixel_description(dataset)
    if int(dataset.get("SamplesPerPixel") or 1) > 1 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = _read_colour(dataset)
        return DecodedImage(pixels, header, tuple(warnings), PixelGrid(*pixels.shape))
    lut, lut_warnings = build_lut(dataset)
    factor = 1 if min_length is None else _fraction(dataset, lut, min_length)
    codes, grid = _decode_reduced(dataset, factor) or _decode_full(dataset, warnings)
    small = None
    if factor > grid.factor:
        bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
        small = lut[scaled_decode.reduced(codes, factor // grid.factor, bits, signed=signed)]
    return DecodedImage(lut[codes], header, (*warnings, *lut_warnings), grid, small)


def _check_pixel_description(dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        sop_class = dataset.get("SOPClassUID")
        name = getattr(sop_class, "name", sop_class)  # of an unknown class: whatever bytes the file gives for it
        name = "DICOM object" if name == sop_class else name
        raise UnreadableError(f"this {name} holds no integer pixel data: it is truncated or no mammogram")
    check_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
    if not 1 <= int(dataset.BitsStored) <= min(16, int(dataset.BitsAllocated)):
        raise UnreadableError(f"it stores {dataset.BitsStored} of {dataset.BitsAllocated} bits a pixel, not 1 to 16")


def _fraction(dataset: Dataset, lut: np.ndarray, min_length: int) -> int:
    """Return by how much an image may be reduced so that min_length of its pixels are left."""
    # Stored values are averaged before they become grey: where greys are in another order (padding that is dark
    # beside air that is bright), an average would be neither.
    steps = np.diff(np.roll(lut, len(lut) // 2 if dataset.PixelRepresentation else 0).astype(np.int32))
    is_ordered = (steps >= 0).all() or (steps <= 0).all()
    return scaled_decode.fraction(max(int(dataset.Rows), int(dataset.Columns)), min_length) if is_ordered else 1


def _decode_reduced(dataset: Dataset, factor: int) -> tuple[np.ndarray, PixelGrid] | None:
    """Return stored bit patterns at reduced resolution and their grid, or None where the whole must be decoded."""
    if factor == 1:
        return None
    shape, bits = (int(dataset.Rows), int(dataset.Columns)), int(dataset.BitsStored)
    signed, syntax = bool(dataset.PixelRepresentation), dataset.file_meta.TransferSyntaxUID
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
            codes, factor = scaled_decode.jpeg2000(frame, shape, bits, signed, factor)
        elif syntax == uid.JPEGBaseline8Bit and bits == 8 and not signed:
            codes, factor = scaled_decode.jpeg(frame, shape, factor)
        else:
            return None
    except Exception:  # whatever is the matter, decoding the whole says it in its own words
        return None
    return codes, PixelGrid(*shape, factor)


def _decode_full(dataset: Dataset, warnings: list[str]) -> tuple[np.ndarray, PixelGrid]:
    """Return stored bit patterns (native byte order, no extension of a sign) and their grid; may add a warning."""
    stored, bits = pixel_array(dataset, view_only=True), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", bits - 1))
    if high != bits - 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        warnings.append(f"HighBit {high} contradicts {bits} bits stored, the lowest {bits} bits were read")
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"uint{stored.itemsize * 8}")
    if bits < stored.itemsize * 8:
        codes = codes & codes.dtype.type(2**bits - 1)
    return codes, PixelGrid(*codes.shape)


def _read_colour(dataset: Dataset) -> np.ndarray:
    """Return the grey, uint16 (rows, columns), of a coloured file whose channels agree."""
    stored, white = pixel_array(dataset, view_only=True), 2 ** int(dataset.BitsStored) - 1
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, dataset)
        white = 2 ** (stored.itemsize * 8) - 1
    return np.rint(grey_channel(stored, white) * (65535 / white)).astype(np.uint16)
