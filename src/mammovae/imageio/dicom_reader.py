"""Reads DICOM files: which files are DICOM, their headers, and their pixels at full or reduced resolution."""

import io
import logging
import os
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from mammovae.imageio import scaled_decode
from mammovae.imageio.codestream import Stream
from mammovae.imageio.decoded_image import DecodedImage, PixelGrid, UnreadableError
from mammovae.imageio.dicom_colour import read_colour
from mammovae.imageio.dicom_header import header_warnings, read_attributes
from mammovae.imageio.dicom_lut import build_lut, narrow_range_warnings
from mammovae.imageio.dicom_pixels import (
    PixelDescription,
    check_stream,
    decode,
    decode_reduced,
    describe_pixels,
    reduction,
    syntax_name,
)
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.pixel_data import PixelData, is_at_pixel_data, read_pixel_data

_DEFLATED = re.compile(rb"\x02\x00\x10\x00UI..1\.2\.840\.10008\.1\.2\.1\.99(?![0-9.])", re.DOTALL)
_PREAMBLE = 132  # bytes, with the letters behind it
_LONGEST_META = 2**12  # bytes in which the transfer syntax is found
_PIECE = 2**18  # bytes that are inflated at a time
_MAX_HEADER = 2**25  # bytes of a deflated file's header
_SMALL_STREAM = 2**16  # bytes that a stream of a small picture may have whatever its pixels need
_EMPTY_ELEMENT, _MAX_EMPTY_ELEMENTS = bytes(8), 64
_MAX_REMARKS = 3  # of pydicom's, on one file


def is_dicom(head: bytes) -> bool:
    """Say whether a file begins as DICOM does: with the preamble of PS3.10 7.1, or with a bare data set's element."""
    # Files of old archives begin with group 2 or 8 at once, with a VR or an implicit length behind the tag.
    little = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    big = head[:2] in (b"\x00\x02", b"\x00\x08") and head[2:3] == b"\x00"
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    implicit = little and len(head) >= 8 and int.from_bytes(head[4:8], "little") <= 1024
    return head[128:132] == b"DICM" or (little and (explicit or implicit)) or (big and explicit)


def open_dataset(file: IO[bytes]) -> pydicom.FileDataset:
    """Return a file's data set up to its pixels."""
    return _read_up_to_pixels(file)[0]


def read_dicom(file: IO[bytes], min_length: int | None) -> DecodedImage:
    """Read a DICOM image; for min_length see `mammovae.imageio.read.read`."""
    with collect_pydicom_warnings() as odd:
        dataset, stream = _read_up_to_pixels(file)
        values = Values(dataset)
        header, notes = read_attributes(values), header_warnings(values)
        pixels, data = _read_stored(dataset, values, stream)
        syntax = _transfer_syntax(dataset)
        codestream, stream_notes = check_stream(data, pixels, syntax)
        notes += [*data.warnings, *stream_notes]
        steps = [_describe_storage(syntax, pixels, codestream)]
        if pixels.samples > 1 or pixels.photometric == "PALETTE COLOR":
            channel, colour_notes = read_colour(data, codestream, pixels, dataset)
            grey = _Grey(channel, PixelGrid(*channel.shape), colour_notes, ["its equal channels were read as grey"])
        else:
            grey = _read_grey(data, codestream, pixels, values, dataset, min_length)
        remarks = _unique(notes, grey.warnings, narrow_range_warnings(grey.pixels), values.warnings, odd)
    return DecodedImage(grey.pixels, header, remarks, grey.grid, grey.small, (*steps, *grey.steps))


class _Grey(NamedTuple):
    pixels: np.ndarray
    grid: PixelGrid
    warnings: list[str]
    steps: list[str]
    small: np.ndarray | None = None  # of DecodedImage


def _read_grey(
    data: PixelData,
    codestream: Stream | None,
    pixels: PixelDescription,
    values: Values,
    dataset: pydicom.FileDataset,
    min_length: int | None,
) -> _Grey:
    """Read a file without colour; what is wrong with a header's value is said by `values` itself."""
    if min_length is not None and codestream is not None:
        lut = build_lut(values, pixels)
        reduced = decode_reduced(codestream, pixels, reduction(pixels, lut.table, min_length))
        if reduced is not None:
            codes, grid = reduced
            step = f"decoded at 1/{grid.factor} of the resolution"
            return _Grey(lut.table[codes], grid, lut.warnings, [step, *lut.steps])
    stored = decode(data, codestream, pixels, dataset)
    pixels, lut = stored.description, build_lut(values, stored.description)
    grey, small = lut.table[stored.codes], None
    if stored.background is not None:
        grey[stored.background] = 0
    elif min_length is not None and (factor := reduction(pixels, lut.table, min_length)) > 1:
        small = lut.table[scaled_decode.reduced(stored.codes, factor, pixels.bits_stored, signed=pixels.is_signed)]
    notes = [*stored.warnings, *lut.warnings]
    return _Grey(grey, stored.grid, notes, [*stored.warnings, *lut.steps], small)


def _read_stored(
    dataset: pydicom.FileDataset, values: Values, stream: "_Bounded | _Inflated"
) -> tuple[PixelDescription, PixelData]:
    """Return what the header says of the pixels and, only where that is a possible image, their bytes."""
    implicit, little = bool(dataset.original_encoding[0]), dataset.original_encoding[1] is not False
    source = cast(IO[bytes], stream)
    if not is_at_pixel_data(source, little=little):
        raise UnreadableError(_without_pixels(dataset))
    pixels = describe_pixels(values)
    longest = 2 * pixels.needed_bytes + _SMALL_STREAM
    if isinstance(stream, _Inflated):
        stream.limit = stream.tell() + longest
    return pixels, read_pixel_data(source, implicit=implicit, little=little, longest=longest)


def _transfer_syntax(dataset: pydicom.FileDataset) -> uid.UID:
    """Return the transfer syntax that a file names, or the one that it was read in where it names none."""
    named = Values(dataset.file_meta).text("TransferSyntaxUID")
    if named:
        return uid.UID(named)
    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else explicit


def _without_pixels(dataset: pydicom.FileDataset) -> str:
    sop_class = Values(dataset).text("SOPClassUID") or ""
    name = uid.UID(sop_class).name
    name = "DICOM object" if name == sop_class else name
    return f"this {name} holds no integer pixel data: it is truncated or no mammogram"


def _describe_storage(syntax: uid.UID, pixels: PixelDescription, codestream: Stream | None) -> str:
    """Return the first step: how the pixels are stored."""
    own = "" if codestream is None else f" (a {codestream.kind} stream of {codestream.bits} bits)"
    return f"{pixels.rows} rows of {pixels.columns} pixels are stored as {syntax_name(syntax)}{own}"


def _unique(*sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentence for some in sentences for sentence in some))


@contextmanager
def collect_pydicom_warnings() -> Iterator[list[str]]:
    """Collect what pydicom logs in this thread: a clause each, without the file's own words, at most a few."""
    collector = _Collector()
    logger = logging.getLogger("pydicom")
    logger.addHandler(collector)
    try:
        yield collector.clauses
    finally:
        logger.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.clauses: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if threading.get_ident() != self._thread or len(self.clauses) == _MAX_REMARKS:
            return
        # What stands behind a colon are values, a patient's name among them.
        clause = re.split(r" - |[:;]|\.(?:\s|$)", " ".join(record.getMessage().split()))[0]
        # So are words in quotes, which a damaged file fills with anything; and what is read has no name here.
        clause = re.split(r"\s['\"]| (?:found )?in file\b", clause)[0].strip()[:120]
        clause = clause[:1].lower() + clause[1:]
        if clause and clause not in self.clauses:
            self.clauses.append(clause)


class _Zeros:
    """Ends the reading of a header that is nothing but zeros any more, as in a file that was not fetched to its end.

    pydicom would take each eight of them for an element, millions of times.
    """

    def __init__(self) -> None:
        self._count = 0

    def checked(self, content: bytes) -> bytes:
        """Return what was read; UnreadableError after so many empty elements in a row."""
        self._count = self._count + 1 if content == _EMPTY_ELEMENT else 0
        if self._count > _MAX_EMPTY_ELEMENTS:
            raise UnreadableError("its DICOM header ends in zeros, fetch it again")
        return content


class _Bounded:
    """A file that takes no memory for more than it holds, whatever length an element claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek
        self._end = stream.seek(0, os.SEEK_END)
        self._zeros = _Zeros()
        stream.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return up to size bytes from where it stands."""
        left = max(0, self._end - self.tell())
        return self._zeros.checked(self._stream.read(left if size < 0 else min(size, left)))


class _Inflated:
    """The data set of a deflated file (PS3.5 A.5), inflated no further than it is read, and never beyond `limit`."""

    def __init__(self, stream: _Bounded, limit: int) -> None:
        self._stream, self.limit = stream, limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._content = io.BytesIO()
        self._length = 0
        self._zeros = _Zeros()

    def read(self, size: int = -1) -> bytes:
        """Return up to size bytes from where it stands."""
        self._inflate(self.limit + 1 if size < 0 else self.tell() + size)
        return self._zeros.checked(self._content.read(size))

    def tell(self) -> int:
        """Return where it stands."""
        return self._content.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere else."""
        if whence == os.SEEK_END:
            self._inflate(self.limit + 1)
        return self._content.seek(offset, whence)

    def _inflate(self, end: int) -> None:
        place = self._content.tell()
        self._content.seek(self._length)
        while self._length < min(end, self.limit + 1) and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(_PIECE)
            if not packed:
                break
            try:
                self._length += self._content.write(self._inflater.decompress(packed, _PIECE))
            except zlib.error:
                raise UnreadableError("its deflated data set is damaged, fetch the file again") from None
        self._content.seek(place)
        if self._length > self.limit:
            raise UnreadableError(
                f"its deflated data set holds more than {self.limit:,} bytes, which is more than its image needs"
            )


def _read_up_to_pixels(file: IO[bytes]) -> "tuple[pydicom.FileDataset, _Bounded | _Inflated]":
    """Return a file's data set up to its pixels, and the stream that stands before them."""
    try:
        return _read_header(_Bounded(file))
    except (UnreadableError, MemoryError):
        raise
    except RecursionError:
        raise UnreadableError("its DICOM header is damaged: sequences lie in each other without end") from None
    except Exception as error:  # pydicom raises anything over what is no DICOM
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; pydicom's own have no number
            raise
        raise UnreadableError("its DICOM header is damaged, fetch the file again") from None


def _read_header(raw: _Bounded) -> "tuple[pydicom.FileDataset, _Bounded | _Inflated]":
    is_deflated = _DEFLATED.search(raw.read(_LONGEST_META))
    raw.seek(0)
    if is_deflated:
        raw.seek(_PREAMBLE if raw.read(_PREAMBLE).endswith(b"DICM") else 0)
        meta = FileMetaDataset(read_dataset(cast(BinaryIO, raw), False, True, stop_when=_is_behind_meta))
        inflated = _Inflated(raw, _MAX_HEADER)
        # Without a file meta group, it finds out for itself that what was deflated is explicit.
        dataset = pydicom.dcmread(cast(BinaryIO, inflated), force=True, stop_before_pixels=True)
        dataset.file_meta = meta
        return dataset, inflated
    return pydicom.dcmread(cast(BinaryIO, raw), force=True, stop_before_pixels=True), raw


def _is_behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2
