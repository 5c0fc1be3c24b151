"""Writes DICOM files element by element, so that each can lie: values, VRs and lengths are written as they are given.

pydicom's writer checks and mends what it writes, which is what a fuzz must not have.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

_LONG = {"OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "UT", "UC", "UR", "SV", "UV"}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_UNDEFINED = 0xFFFFFFFF
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg-extended": "1.2.840.10008.1.2.4.51",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls-lossy": "1.2.840.10008.1.2.4.81",
    "jpeg2000-lossless": "1.2.840.10008.1.2.4.90",
    "jpeg2000": "1.2.840.10008.1.2.4.91",
    "rle": "1.2.840.10008.1.2.5",
}
COMPRESSED = [name for name in SYNTAXES if name not in ("implicit", "explicit", "deflated", "big")]


@dataclass(frozen=True)
class Element:
    """One element: a value as the VR has it (text, numbers, bytes, items), and a stated length where that is false."""

    tag: int
    vr: str
    value: Any
    length: int | None = None

    @classmethod
    def of(cls, keyword: str, value: Any, vr: str | None = None) -> "Element":
        """Make an element by its keyword; items are dicts of keywords."""
        tag = int(tag_for_keyword(keyword) or 0)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = [[cls.of(name, inner) for name, inner in item.items()] for item in value]
        return cls(tag, vr or dictionary_VR(tag).split(" or ")[0], value)


@dataclass
class DicomFile:
    """A file as it will be written: its elements by keyword, and how they are encoded."""

    syntax: str
    elements: dict[str, Element]
    codestream: bytes | None = None  # of compressed pixels: the one fragment
    meta: dict[str, str] = field(default_factory=dict)
    bomb: int = 0  # megabytes of zeros in a private element at the end; only a deflated file holds them in few bytes

    def with_values(self, **values: Any) -> "DicomFile":
        """Return a copy with some elements replaced or added; None takes one away."""
        elements = dict(self.elements)
        for keyword, value in values.items():
            elements.pop(keyword, None)
            if value is not None:
                elements[keyword] = value if isinstance(value, Element) else Element.of(keyword, value)
        return replace(self, elements=elements)

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        little, implicit = self.syntax != "big", self.syntax == "implicit"
        elements = list(self.elements.values())
        body = b"".join(_encode(element, implicit, little) for element in sorted(elements, key=lambda one: one.tag))
        if self.codestream is not None:
            body += _encapsulate(self.codestream)
        if self.syntax == "deflated":
            body = _deflate(body, self.bomb)
        names = {
            "MediaStorageSOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
            "MediaStorageSOPInstanceUID": "1.2.3",
            "TransferSyntaxUID": SYNTAXES[self.syntax],
            "ImplementationClassUID": "1.2.3.4",
        }
        group = b"".join(_encode(Element.of(name, value), False, True) for name, value in (names | self.meta).items())
        length = _encode(Element.of("FileMetaInformationGroupLength", [len(group)]), False, True)
        return bytes(128) + b"DICM" + length + group + body


def nested(keyword: str, depth: int, syntax: str) -> Element:
    """Return a sequence in whose item is the same sequence, and so on."""
    element = Element.of(keyword, b"")
    for _ in range(depth):
        inner = _encode(element, syntax == "implicit", syntax != "big")
        head = struct.pack(">HHI" if syntax == "big" else "<HHI", 0xFFFE, 0xE000, len(inner))
        element = replace(element, value=head + inner)
    return element


def _encode(element: Element, implicit: bool, little: bool) -> bytes:
    order = "<" if little else ">"
    value = _value(element, implicit, little)
    length = len(value) if element.length is None else element.length
    tag = struct.pack(order + "HH", element.tag >> 16, element.tag & 0xFFFF)
    if implicit:
        return tag + struct.pack("<I", length & 0xFFFFFFFF) + value
    if element.vr in _LONG:
        return tag + element.vr.encode() + b"\0\0" + struct.pack(order + "I", length & 0xFFFFFFFF) + value
    return tag + element.vr.encode("latin-1") + struct.pack(order + "H", length & 0xFFFF) + value


def _value(element: Element, implicit: bool, little: bool) -> bytes:
    value, order = element.value, "<" if little else ">"
    if isinstance(value, bytes):
        if element.vr == "OW" and not little:
            value = b"".join(value[start + 1 : start - 1 if start else None : -1] for start in range(0, len(value), 2))
    elif isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, list) and (element.vr == "SQ" or (value and isinstance(value[0], list))):
        items = [b"".join(_encode(inner, implicit, little) for inner in item) for item in value]
        value = b"".join(struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    else:
        numbers = value if isinstance(value, list) else [value]
        kind = _NUMBERS.get(element.vr)
        if kind is None:
            value = "\\".join(map(str, numbers)).encode()
        elif kind in "fd":
            value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        else:
            bits = 8 * struct.calcsize(kind)
            value = struct.pack(f"{order}{len(numbers)}{kind.upper()}", *(int(n) % 2**bits for n in numbers))
    return value + (b"\0" if element.vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)


def _deflate(body: bytes, bomb: int) -> bytes:
    """Return a raw deflate stream of a body and of an element with so many megabytes of zeros (PS3.5 A.5)."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    if not bomb:
        return packer.compress(body) + packer.flush()
    head = struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, bomb * 2**20)
    packed = packer.compress(body + head) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so the same blocks may follow again and again.
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed + block * bomb + packer.flush()


def _encapsulate(codestream: bytes) -> bytes:
    """Return PixelData with an empty offset table and one fragment (PS3.5 A.4)."""
    codestream += b"\0" * (len(codestream) % 2)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, len(codestream)) + codestream
    return head + fragment + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
