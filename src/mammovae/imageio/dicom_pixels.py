"""What a DICOM header says of its pixels, checked, and what is stored there, decoded and compared with it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, uid

from mammovae.imageio import rle, scaled_decode
from mammovae.imageio.codestream import Stream, StreamKind, is_codestream, read_stream
from mammovae.imageio.decoded_image import PixelGrid, UnreadableError, check_size
from mammovae.imageio.dicom_values import Values, padding_range
from mammovae.imageio.pixel_data import PixelData, several_frames
from mammovae.imageio.stream_decoders import decode_stream

_SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
_KINDS: dict[str, StreamKind] = {
    uid.JPEGBaseline8Bit: "JPEG",
    uid.JPEGExtended12Bit: "JPEG",
    uid.JPEGLossless: "lossless JPEG",
    uid.JPEGLosslessSV1: "lossless JPEG",
    uid.JPEGLSLossless: "JPEG-LS",
    uid.JPEGLSNearLossless: "JPEG-LS",
    uid.JPEG2000Lossless: "JPEG 2000",
    uid.JPEG2000: "JPEG 2000",
    uid.HTJ2KLossless: "JPEG 2000",
    uid.HTJ2KLosslessRPCL: "JPEG 2000",
    uid.HTJ2K: "JPEG 2000",
}
_NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
_OUTLIER_SHARE = 1 / 1000  # of the pixels, that may be above the stated bits without saying anything of the others


@dataclass(frozen=True)
class PixelDescription:
    """The Image Pixel module (PS3.3 C.7.6.3) of an image."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str

    @property
    def needed_bytes(self) -> int:
        """Bytes of the uncompressed pixels."""
        size = self.rows * self.columns * self.samples * (self.bits_allocated // 8)
        return size // 3 * 2 if self.photometric == "YBR_FULL_422" else size


class StoredPixels(NamedTuple):
    """Pixels as they are stored: bit patterns in the lowest bits of uint8 or uint16, without extension of a sign."""

    codes: np.ndarray
    grid: PixelGrid
    description: PixelDescription
    """The header's, with the bits that the pixels really have."""
    warnings: list[str]
    background: np.ndarray | None = None
    """Which pixels hold the padding value, where that lies outside the stored bits."""


def describe_pixels(values: Values) -> PixelDescription:
    """Return what a header says of its pixels; UnreadableError names an attribute that says nothing of use."""
    frames = values.integer("NumberOfFrames") or 1
    if frames > 1:  # before gigabytes of them are read
        raise UnreadableError(several_frames(frames))
    rows, columns = _whole_number(values, "Rows"), _whole_number(values, "Columns")
    check_size(rows, columns)
    allocated = _whole_number(values, "BitsAllocated", (8, 16, 32))
    stored = _whole_number(values, "BitsStored")
    if not 1 <= stored <= min(16, allocated):
        raise UnreadableError(f"BitsStored is {stored} of {allocated} bits allocated, not 1 to {min(16, allocated)}")
    high = values.integer("HighBit")
    signed = bool(_whole_number(values, "PixelRepresentation", (0, 1)))
    photometric = (values.text("PhotometricInterpretation") or "").upper()
    if photometric not in _SAMPLES:
        said = f"is {values.quote('PhotometricInterpretation')}" if photometric else "is absent or empty"
        raise UnreadableError(f"PhotometricInterpretation {said}, not one of {', '.join(_SAMPLES)}")
    samples = _whole_number(values, "SamplesPerPixel", (1, 3)) if values.has("SamplesPerPixel") else 1
    if samples != _SAMPLES[photometric]:
        raise UnreadableError(
            f"SamplesPerPixel {samples} contradicts PhotometricInterpretation {photometric}, "
            f"which has {_SAMPLES[photometric]}"
        )
    high = stored - 1 if high is None else high
    return PixelDescription(rows, columns, samples, allocated, stored, high, signed, photometric)


def _whole_number(values: Values, name: str, allowed: Iterable[int] = ()) -> int:
    number = values.integer(name)
    if number is None:
        raise UnreadableError(
            f"{name} is {values.quote(name)}, no whole number" if values.has(name) else f"{name} is absent or empty"
        )
    if allowed and number not in allowed:
        raise UnreadableError(f"{name} is {number}, not {' or '.join(map(str, allowed))}")
    return number


def check_stream(data: PixelData, pixels: PixelDescription, syntax: uid.UID) -> tuple[Stream | None, list[str]]:
    """Compare a compressed frame with the header before any decoder sees it; None for RLE and uncompressed data.

    Returned with it is what is odd about a file that can be read. Raises UnreadableError for another size or number of
    components.
    """
    if not is_codestream(data.content):
        return None, _odd_syntax(data, pixels, syntax)
    stream = read_stream(data.content)
    if (stream.rows, stream.columns) != (pixels.rows, pixels.columns):
        exchanged = (stream.columns, stream.rows) == (pixels.rows, pixels.columns)
        why = ": Rows and Columns are exchanged" if exchanged else ""
        raise UnreadableError(
            f"its {stream.kind} stream has {stream.rows} rows and {stream.columns} columns, the header says "
            f"{pixels.rows} and {pixels.columns}{why}"
        )
    if stream.components != pixels.samples:
        raise UnreadableError(
            f"its {stream.kind} stream has {stream.components} components, SamplesPerPixel is {pixels.samples}"
        )
    warnings = []
    if stream.kind != _KINDS.get(syntax):
        warnings.append(f"its pixels are {stream.kind}, although the transfer syntax says {syntax_name(syntax)}")
    if stream.kind == "JPEG 2000" and stream.is_signed != pixels.is_signed:
        said, followed = ("signed", "unsigned") if stream.is_signed else ("unsigned", "signed")
        warnings.append(
            f"its JPEG 2000 stream is {said}, PixelRepresentation {int(pixels.is_signed)} ({followed}) was followed"
        )
    return stream, warnings


def _odd_syntax(data: PixelData, pixels: PixelDescription, syntax: uid.UID) -> list[str]:
    """Return what is odd about data that are no codestream, or raise UnreadableError where they cannot be read."""
    name = syntax_name(syntax)
    if data.is_encapsulated:
        if syntax == uid.RLELossless:
            return []
        known = syntax in _KINDS or syntax in _NATIVE
        why = "is not what its compressed data begin as: they are damaged" if known else "is not supported"
        raise UnreadableError(f"its transfer syntax {name} {why}")
    if syntax in _NATIVE:
        return []
    if syntax not in _KINDS and syntax != uid.RLELossless:
        raise UnreadableError(f"its transfer syntax {name} is not supported")
    if data.length - pixels.needed_bytes not in (0, pixels.needed_bytes % 2):
        raise UnreadableError(f"its pixel data are not compressed, although the transfer syntax says {name}")
    return [f"its pixel data are not compressed, although the transfer syntax says {name}"]


def syntax_name(syntax: uid.UID) -> str:
    """Return what a transfer syntax is called in a sentence."""
    return "".join(sign if sign.isprintable() else " " for sign in str(syntax.name))[:120]


def decode(data: PixelData, stream: Stream | None, pixels: PixelDescription, dataset: Dataset) -> StoredPixels:
    """Decode the whole of a grey image and compare the values with the bits that the header states."""
    warnings: list[str] = []
    if stream is not None:
        codes = decode_stream(stream)
        if stream.is_signed and not pixels.is_signed:
            codes = codes & codes.dtype.type(2**stream.bits - 1)
        if stream.bits < pixels.bits_stored:
            warnings.append(f"its {stream.kind} stream has {stream.bits} bits a pixel, BitsStored says otherwise")
            pixels = replace(pixels, bits_stored=stream.bits)
        pixels = replace(pixels, high_bit=pixels.bits_stored - 1)
    elif data.is_encapsulated:
        codes, warnings = rle.decode(data.content, pixels.rows, pixels.columns)
    else:
        codes, warnings = _read_uncompressed(data, pixels, little=dataset.original_encoding[1] is not False)
    return _read_stated_bits(codes, pixels, dataset, warnings)


def uncompressed_bytes(data: PixelData, pixels: PixelDescription) -> tuple[bytes, list[str]]:
    """Return the bytes of uncompressed pixels and what is odd; UnreadableError where they are too few or too many."""
    needed, size = pixels.needed_bytes, f"{pixels.rows} rows of {pixels.columns} pixels"
    if data.length < needed:
        raise UnreadableError(f"its pixel data have {data.length:,} bytes, {size} need {needed:,}: it is truncated")
    if data.length >= 2 * needed:
        raise UnreadableError(
            f"its pixel data are {data.length // needed} times what {size} of {pixels.bits_allocated} bits need: "
            "it has several frames, or BitsAllocated is wrong"
        )
    left_over = data.length - needed - needed % 2
    # A whole row or column too many, and the picture may be sheared.
    if left_over >= min(pixels.rows, pixels.columns) * pixels.samples * pixels.bits_allocated // 8:
        raise UnreadableError(
            f"its pixel data have {data.length:,} bytes, {size} need {needed:,}: Rows or Columns are wrong"
        )
    return data.content[: needed + needed % 2], [f"{left_over} bytes are left over behind its pixels"] * (left_over > 0)


def _read_uncompressed(data: PixelData, pixels: PixelDescription, *, little: bool) -> tuple[np.ndarray, list[str]]:
    content, warnings = uncompressed_bytes(data, pixels)
    stored = np.frombuffer(content, np.uint8)
    if pixels.bits_allocated == 8 and data.is_words and not little:  # PS3.5 8.2: bytes change places within words
        stored = stored[: len(stored) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
    kind = np.dtype(f"u{pixels.bits_allocated // 8}").newbyteorder("<" if little else ">")
    codes = stored[: pixels.needed_bytes].view(kind).reshape(pixels.rows, pixels.columns)
    return codes.astype(kind.newbyteorder("="), copy=False), warnings


def reduction(pixels: PixelDescription, lut: np.ndarray, min_length: int) -> int:
    """Return by how much an image may be reduced so that its longer side keeps min_length pixels, a power of two.

    Stored values are averaged before they become grey: where greys are in another order (padding that is dark beside
    air that is bright), an average would be neither, and the factor is 1.
    """
    steps = np.diff(np.roll(lut, len(lut) // 2 if pixels.is_signed else 0).astype(np.int32))
    is_ordered = (steps >= 0).all() or (steps <= 0).all()
    return scaled_decode.fraction(max(pixels.rows, pixels.columns), min_length) if is_ordered else 1


def decode_reduced(stream: Stream, pixels: PixelDescription, factor: int) -> tuple[np.ndarray, PixelGrid] | None:
    """Return stored bit patterns at reduced resolution and their grid, or None where the whole must be decoded."""
    shape, bits = (pixels.rows, pixels.columns), pixels.bits_stored
    if factor == 1 or stream.kind != "JPEG 2000" or stream.bits != bits:
        return None
    try:
        codes, factor = scaled_decode.jpeg2000(stream.content, shape, bits, pixels.is_signed, factor)
    except Exception:  # whatever is the matter, decoding the whole says it in its own words
        return None
    return codes, PixelGrid(*shape, factor)


def _read_stated_bits(
    codes: np.ndarray, pixels: PixelDescription, dataset: Dataset, warnings: list[str]
) -> StoredPixels:
    """Take the bits that the header states out of the stored ones, more of them where values need more."""
    grid = PixelGrid(*codes.shape)
    bits = pixels.bits_stored
    overlays = _overlay_bits(dataset) & ~((2**bits - 1) << max(0, pixels.high_bit + 1 - bits))
    if overlays:
        codes = codes & codes.dtype.type(~overlays & (2 ** (8 * codes.itemsize) - 1))
    codes, moved = _move_down(codes, pixels)
    warnings += moved
    background, cut = None, []
    if bits < 8 * codes.itemsize and int(np.bitwise_or.reduce(codes, axis=None)) >> bits:
        needed = _bits_of_values(codes, pixels)
        if needed > bits:
            background = _padding(codes, pixels, dataset)
            if background is not None:
                needed = _bits_of_values(codes[~background], pixels)
        if needed > bits and not pixels.is_signed:
            codes, cut = _cut_outliers(codes, bits, background)
            needed = bits if cut else needed
        if needed > 16:
            raise UnreadableError(f"its values need {needed} bits, BitsStored says {bits}")
        if needed > bits:
            warnings.append(f"values contradict BitsStored {bits}, {needed} bits were read")
            bits, background = needed, None
        elif background is not None and not background.any():
            background = None
        elif background is None and not pixels.is_signed and not cut:
            warnings.append(f"bits above the stated {bits} are set in every pixel and were left out")
        codes = codes & codes.dtype.type(2**bits - 1)
    codes = codes.astype(np.uint16) if codes.itemsize > 2 else codes
    return StoredPixels(codes, grid, replace(pixels, bits_stored=bits), warnings + cut, background)


def _cut_outliers(codes: np.ndarray, bits: int, background: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Cut the values above the stated bits where they are few: with a bit more, all others would be half as bright."""
    above = codes >> bits > 0
    if background is not None:
        above &= ~background
    count = np.count_nonzero(above)
    if count > codes.size * _OUTLIER_SHARE:
        return codes, []
    cut = np.where(above, codes.dtype.type(2**bits - 1), codes)
    return cut, [f"{count} of {codes.size} pixels are above the stated {bits} bits and were cut"]


def _move_down(codes: np.ndarray, pixels: PixelDescription) -> tuple[np.ndarray, list[str]]:
    """Shift values that HighBit says to be at the top to the bottom, unless they are there already."""
    bits, high = pixels.bits_stored, pixels.high_bit
    shift = high + 1 - bits
    if shift == 0:
        return codes, []
    used = int(np.bitwise_or.reduce(codes, axis=None))
    above, below = used >> bits, used & (2**shift - 1) if shift > 0 else 1
    is_low = below and (not above or (pixels.is_signed and _bits_of_values(codes, pixels) <= bits))
    if shift < 0 or high >= 8 * codes.itemsize or is_low:
        return codes, [f"HighBit {high} contradicts {bits} bits stored, the lowest {bits} bits were read"]
    mask = codes.dtype.type(2**bits - 1)
    return (codes >> codes.dtype.type(shift)) & mask, [f"its {bits} bits were moved down from HighBit {high}"]


def _bits_of_values(codes: np.ndarray, pixels: PixelDescription) -> int:
    """Return how many bits values need, of which those above the stored ones say nothing if they never change."""
    if codes.size == 0:
        return 1
    bits = pixels.bits_stored
    if pixels.is_signed:
        signed = codes.view(f"i{codes.itemsize}")
        low, high = int(signed.min()), int(signed.max())
        if low >= 0 and high < 2**bits:  # the sign was not extended
            return bits
        return max(bits, high.bit_length() + 1, (-low - 1).bit_length() + 1 if low < 0 else 1)
    used, always = (int(reduce.reduce(codes, axis=None)) for reduce in (np.bitwise_or, np.bitwise_and))
    changing = (used & ~always) >> bits
    return bits + changing.bit_length()


def _padding(codes: np.ndarray, pixels: PixelDescription, dataset: Dataset) -> np.ndarray | None:
    """Return which pixels hold a padding value (PS3.3 C.7.5.1.1.2) that lies outside the stored bits."""
    padding = padding_range(Values(dataset))
    if padding is None:
        return None
    signed = codes.astype(np.int64)
    size = 2 ** (8 * codes.itemsize)
    ends = sorted(end % size for end in padding)
    return (signed >= ends[0]) & (signed <= ends[1]) & (signed >> pixels.bits_stored > 0)


def _overlay_bits(dataset: Dataset) -> int:
    """Return the bits of stored pixels that hold overlays (PS3.3 C.9.2, retired) instead of grey."""
    found = 0
    for group in _OVERLAY_GROUPS:
        try:
            if (group, 0x3000) not in dataset:
                found |= 1 << (int(dataset[group, 0x0102].value) & 31)
        except Exception:  # absent, or written so that nobody can read it: then values say how many bits they have
            continue
    return found & ~1  # 0 is the position that overlays with data of their own give
