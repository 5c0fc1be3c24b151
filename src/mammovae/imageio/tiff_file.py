"""What the tags of a TIFF file say (TIFF 6.0 and BigTIFF): its pages, and how the samples of one are stored."""

import io
import struct
from dataclasses import dataclass
from typing import IO

from mammovae.imageio.decoded_image import UnreadableError, check_size
from mammovae.imageio.raster_samples import ENDS_EARLY, exactly

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
MAX_SAMPLE_VALUE, PLANAR, PREDICTOR, COLOR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 281, 284, 317, 320, 338, 339
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
T4_OPTIONS, T6_OPTIONS, JPEG_TABLES, CHROMA_SUBSAMPLING = 292, 293, 347, 530
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SIGNED_MAX_SAMPLE_VALUE = 254, 255, 341
_TAGS = {
    *(WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP),
    *(STRIP_BYTES, MAX_SAMPLE_VALUE, PLANAR, PREDICTOR, COLOR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT, TILE_WIDTH),
    *(
        T4_OPTIONS,
        T6_OPTIONS,
        JPEG_TABLES,
        CHROMA_SUBSAMPLING,
        TILE_LENGTH,
        TILE_OFFSETS,
        TILE_BYTES,
        _NEW_SUBFILE_TYPE,
        _SUBFILE_TYPE,
        _SIGNED_MAX_SAMPLE_VALUE,
    ),
}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
PHOTOMETRICS = {4: "a mask", 5: "CMYK ink", YCBCR: "YCbCr colour", 8: "Lab colour", 32803: "a camera's raw mosaic"}
PASSED_TO_LIBTIFF = (FILL_ORDER, T4_OPTIONS, T6_OPTIONS, JPEG_TABLES, CHROMA_SUBSAMPLING)
"""Tags without which a strip cannot be decompressed."""
UNCOMPRESSED, JPEG = 1, 7
COMPRESSIONS = {
    2: "CCITT run lengths",
    3: "group 3 fax",
    4: "group 4 fax",
    5: "LZW",
    6: "old JPEG",
    JPEG: "JPEG",
    9: "JBIG",
    32773: "PackBits",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_TYPES = {1: "B", 7: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_PAGES = 4096
_MAX_ENTRIES = 4096
_MAX_VALUES = 2**20  # of all tags, and tags: a film of 700 x 700 tiles, whose offsets and lengths are values
_MAX_SAMPLE_BYTES = 2**29


@dataclass(frozen=True)
class Page:
    """One picture of a TIFF file."""

    tags: dict[int, tuple[int, ...]]
    order: str
    """"<" for little, ">" for big endian."""
    length: int
    """How many tags and values it has."""

    def get(self, tag: int, default: int) -> int:
        """Return a tag's first value."""
        return (self.tags.get(tag) or (default,))[0]

    @property
    def orientation(self) -> int:
        """How the first row and column lie (TIFF 6.0, Orientation): 1 is upright."""
        return self.get(ORIENTATION, 1)

    @property
    def is_secondary(self) -> bool:
        """Whether it is marked as a smaller copy of another page, or as its mask."""
        return bool(self.get(_NEW_SUBFILE_TYPE, 0) & 0b101) or self.get(_SUBFILE_TYPE, 1) == 2


@dataclass(frozen=True)
class Layout:
    """How the samples of a page are stored."""

    rows: int
    columns: int
    bits: int
    samples: int
    photometric: int | None
    compression: int
    is_planar: bool
    white: int | None
    """The largest value, where the header states another than its bits allow."""


def read_pages(file: IO[bytes]) -> list[Page]:
    """Return the pages of a TIFF file or an EXIF block, at most 4,096, up to where they go in a circle."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    try:
        is_big = struct.unpack_from(order + "H", head, 2)[0] == 43
        offset = struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)[0]
        pages: list[Page] = []
        visited: set[int] = set()
        left = _MAX_VALUES  # of values: thousands of pages may have the same million in common
        while offset and offset not in visited and len(pages) < _MAX_PAGES:
            visited.add(offset)
            page, offset = _read_page(file, offset, (order, is_big), left)
            left -= page.length
            pages.append(page)
    except (struct.error, OverflowError, OSError):
        raise UnreadableError(ENDS_EARLY) from None
    if not pages:
        raise UnreadableError("it is damaged: it is a TIFF file without a picture")
    return pages


def main_page(pages: list[Page]) -> Page:
    """Return the one picture of a file: smaller copies and masks beside it are passed by."""
    pictures = [page for page in pages if not page.is_secondary] or pages[:1]
    if len(pictures) > 1:
        raise UnreadableError(f"it has {len(pictures)} pages, give one picture a file")
    return pictures[0]


def _read_page(file: IO[bytes], offset: int, form: tuple[str, bool], left: int) -> tuple[Page, int]:
    """Return a page and the offset of the next, 0 behind the last; form is the order and whether it is BigTIFF."""
    order, is_big = form
    count_format, entry_format = (order + "Q", order + "HHQ8s") if is_big else (order + "H", order + "HHI4s")
    word = order + ("Q" if is_big else "I")
    length = struct.unpack(count_format, exactly(file, struct.calcsize(count_format), offset))[0]
    if length > _MAX_ENTRIES:
        raise UnreadableError("it is damaged: its list of tags has no sensible length")
    entries = exactly(file, length * struct.calcsize(entry_format))
    following = file.read(struct.calcsize(word))  # which the block in a JPEG or PNG file may lack
    tags: dict[int, tuple[int, ...]] = {}
    for tag, kind, number, field in struct.iter_unpack(entry_format, entries):
        if tag not in _TAGS or kind not in _TYPES:
            continue
        length += number
        if length > left:
            raise UnreadableError("it is damaged: a tag of its header has no sensible length")
        size = number * struct.calcsize(order + _TYPES[kind])
        # A field holds the values, or the offset of what does not fit in.
        values = field if size <= len(field) else exactly(file, size, struct.unpack(word, field)[0])
        tags[tag] = struct.unpack_from(f"{order}{number}{_TYPES[kind]}", values)
    return Page(tags, order, length), struct.unpack(word, following)[0] if len(following) == struct.calcsize(
        word
    ) else 0


def exif_orientation(block: bytes) -> int:
    """Return the orientation that an EXIF block states, 1 where it states none or is damaged."""
    try:
        return read_pages(io.BytesIO(block.removeprefix(b"Exif\0\0")))[0].orientation
    except UnreadableError:
        return 1


def describe_page(page: Page) -> Layout:
    """Return how a page is stored; refuse what has no unsigned integers of 1 to 16 bits or contradicts itself."""
    rows, columns, samples = page.get(LENGTH, 0), page.get(WIDTH, 0), page.get(SAMPLES, 1)
    check_size(rows, columns)
    if not 1 <= samples <= 16:
        raise UnreadableError(f"it states {samples} samples a pixel, not 1 to 16")
    formats = set(page.tags.get(SAMPLE_FORMAT, (1,)))
    if formats - {1, 4}:
        kind = "floating point" if formats & {3, 6} else "signed numbers"
        raise UnreadableError(f"its pixels are {kind}, save 8 or 16 bit without a sign")
    depths = set(page.tags.get(BITS, (1,)))
    bits = max(depths, default=1)
    if len(depths) != 1:
        raise UnreadableError("its samples differ in their number of bits, save 8 or 16 bit")
    if not 1 <= bits <= 16:
        raise UnreadableError(f"its pixels have {bits} bits, save 8 or 16 bit")
    _check_photometric(page, samples, bits)
    if rows * columns * samples * (2 if bits > 8 else 1) > _MAX_SAMPLE_BYTES:
        raise UnreadableError(f"{rows} x {columns} pixels of {samples} samples are more than a mammogram has")
    compression, planar = page.get(COMPRESSION, UNCOMPRESSED), page.get(PLANAR, 1)
    photometric = page.get(PHOTOMETRIC, -1)
    white = _stated_white(page, bits) if samples == 1 else None
    return Layout(
        rows, columns, bits, samples, None if photometric < 0 else photometric, compression, planar == 2, white
    )


def _check_photometric(page: Page, samples: int, bits: int) -> None:
    photometric = page.get(PHOTOMETRIC, BLACK_IS_ZERO if samples < 3 else RGB)
    is_jpeg_colour = photometric == YCBCR and page.get(COMPRESSION, UNCOMPRESSED) == JPEG
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) and not is_jpeg_colour:
        kind = PHOTOMETRICS.get(photometric, f"of the unknown kind {photometric}")
        raise UnreadableError(f"its pixels are {kind}, save it in grey")
    colours = 3 if photometric in (RGB, YCBCR) else 1
    extra = len(page.tags.get(EXTRA_SAMPLES, ()))
    # Files of grey with alpha, or of red, green, blue and alpha, often leave out what the last sample is.
    if samples != colours + extra and not (extra == 0 and samples == colours + 1):
        raise UnreadableError(f"its header contradicts itself: {samples} samples a pixel for {colours} colours")
    if photometric == PALETTE and (bits > 8 or len(page.tags.get(COLOR_MAP, ())) < 3 << bits):
        raise UnreadableError("it is damaged: its palette is too short")


def _stated_white(page: Page, bits: int) -> int | None:
    """Return MaxSampleValue where it is a depth, 2^k - 1, and not the image's own largest value."""
    stated = page.get(MAX_SAMPLE_VALUE, page.get(_SIGNED_MAX_SAMPLE_VALUE, 0))
    return stated if 255 <= stated < 2**bits - 1 and stated & (stated + 1) == 0 else None
