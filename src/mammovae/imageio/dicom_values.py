"""The values of a DICOM data set, read the same way everywhere: what is no proper value is absent, and said."""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from pydicom import DataElement, Dataset, Sequence
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import TEXT_VR_DELIMS

_LONGEST = 2**16  # bytes of a value that is read as text or numbers; a LUT's entries are read as they are stored
_CHARSET = re.compile(r"ISO[ _-](2022[ _-])?IR[ _-]?([0-9]+)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMBER_TYPES = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8", "FL": "f4", "FD": "f8"}
_CHARSET_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
_UNTOLD_VRS = {"UN", "OB", "OW", "OD", "OF", "OL", "OV"}  # bytes, whose meaning the dictionary knows if anything does
# Attributes that enhanced objects keep in functional groups (PS3.3 C.7.6.16), in whichever macro.
_IN_GROUPS = {
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor",
    "FrameLaterality",
    "FrameType",
    "AnatomicRegionSequence",
    "ViewCodeSequence",
    "ContrastBolusAgent",
}

Element = DataElement | RawDataElement


class Code(NamedTuple):
    """An item of a code sequence (PS3.3 8.8); what it does not say is empty."""

    value: str
    scheme: str
    meaning: str


class StoredBytes(NamedTuple):
    """A value as it is stored."""

    content: bytes
    little_endian: bool


class Values:
    """Values of a data set by their DICOM keywords.

    Nothing raises. A value that cannot be read counts as absent, and a sentence in `warnings` says so, once. Grey,
    spacing and side of enhanced objects are found in the functional groups (of the first frame, then the shared ones)
    where the data set itself has none.
    """

    def __init__(self, dataset: Dataset, parent: "Values | None" = None) -> None:
        self._dataset = dataset
        self._parent = parent
        self._places: list[Dataset] | None = None
        self.warnings: list[str] = [] if parent is None else parent.warnings

    def within(self, item: Dataset) -> "Values":
        """Return the values of an item of one of this data set's sequences; what is odd there is said here."""
        return Values(item, self)

    def has(self, name: str) -> bool:
        """Say whether there is a value, however wrongly written."""
        return self._element(name) is not None

    def text(self, name: str) -> str | None:
        """Return a value as text, several as they are stored, with a backslash between them."""
        return "\\".join(self.texts(name)) or None

    def texts(self, name: str) -> list[str]:
        """Return each of several values as text of one line, "" where one of them is empty."""
        return [_one_line(part) if isinstance(part, str) else f"{part:.15g}" for part in self._parts(name)]

    def number(self, name: str) -> float | None:
        """Return the first value as a number."""
        numbers = self._numbers(name, self._parts(name)[:1])
        return numbers[0] if numbers else None

    def numbers(self, name: str) -> list[float]:
        """Return all values as numbers, none where one of them is no number."""
        return self._numbers(name, self._parts(name))

    def integer(self, name: str) -> int | None:
        """Return the first value as a whole number, which may be written with a decimal point."""
        number = self.number(name)
        if number is None or number.is_integer():
            return None if number is None else int(number)
        self._warn(f"{name} {number:.15g} is no whole number and was ignored")
        return None

    def items(self, name: str) -> list[Dataset]:
        """Return the items of a sequence."""
        for place in self._where(name):
            value = _sequence(place, name)
            if value:
                return list(value)
            if value is None and self._filled(place, name) is not None:
                self._warn(f"{name} is damaged and was ignored")
        return []

    def codes(self, name: str) -> list[Code]:
        """Return the codes of a code sequence."""
        inner = [self.within(item) for item in self.items(name)]
        keys = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
        return [Code(*(code.text(key) or "" for key in keys)) for code in inner]

    def stored(self, name: str) -> StoredBytes | None:
        """Return a value of any length as its bytes, whole numbers as 16 bits each, or None where there is none."""
        element = self._element(name)
        if element is None:
            return None
        if isinstance(element.value, bytes):
            little = element.is_little_endian if isinstance(element, RawDataElement) else self._is_little_endian()
            return StoredBytes(element.value, little)
        try:
            words = np.atleast_1d(np.asarray(element.value, np.int64)) & 0xFFFF
        except Exception:  # numpy raises anything over what is no array of numbers
            self._warn(f"{name} is damaged and was ignored")
            return None
        return StoredBytes(words.astype("<u2").tobytes(), little_endian=True)

    def quote(self, name: str) -> str:
        """Return a value as it is shown in a sentence."""
        return _quote(self.text(name) or "")

    def _numbers(self, name: str, parts: list[str | float]) -> list[float]:
        numbers = [self._to_number(name, part) for part in parts]
        return [] if None in numbers else [number for number in numbers if number is not None]

    def _to_number(self, name: str, part: str | float) -> float | None:
        if isinstance(part, str):
            is_comma = part.count(",") == 1 and "." not in part
            text = part.replace(",", ".") if is_comma else part
            number = float(text) if _DECIMAL.fullmatch(text) else math.nan
        else:
            is_comma, number = False, part
        if not math.isfinite(number):
            self._warn(f"{name} {_quote(part)} is no number and was ignored")
            return None
        if is_comma:
            self._warn(f"{name} {_quote(part)} was read as {number:.15g}")
        return number

    def _parts(self, name: str) -> list[str | float]:
        """Return the values of an element, each as text or as a number; empty ones at the end are left out."""
        element = self._element(name)
        value = None if element is None else element.value
        if isinstance(value, (bytes, str)) and len(value) > _LONGEST:
            self._warn(f"{name} holds {len(value)} bytes, too long for what it is, and was ignored")
            return []
        if element is not None and isinstance(value, bytes):
            value = self._decode(name, element, value)
        if value is None or isinstance(value, (Sequence, Dataset)):
            return []
        parts: list[str | float]
        if isinstance(value, str):
            parts = [*value.split("\\")]
        else:
            parts = [_plain(one) for one in (value if isinstance(value, (list, MultiValue)) else [value])]
        parts = [part.strip(" \0\t\r\n\f") if isinstance(part, str) else part for part in parts]
        while parts and parts[-1] == "":
            parts.pop()
        return parts

    def _decode(self, name: str, element: Element, content: bytes) -> str | list[float] | None:
        """Return the text or the numbers that a value's bytes stand for."""
        vr = _representation(name, element)
        if vr not in _NUMBER_TYPES:
            plain = vr not in _CHARSET_VRS or name == "SpecificCharacterSet"
            return content.decode("latin-1") if plain else self._decode_text(content)
        little = element.is_little_endian if isinstance(element, RawDataElement) else self._is_little_endian()
        kind = np.dtype(_NUMBER_TYPES[vr]).newbyteorder("<" if little else ">")
        if len(content) % kind.itemsize:
            self._warn(f"{name} holds {len(content)} bytes, which are no number, and was ignored")
            return None
        return [float(number) for number in np.frombuffer(content, kind)]

    def _decode_text(self, content: bytes) -> str:
        if content.isascii() and b"\x1b" not in content:
            return content.decode("ascii")
        names = self._charsets()
        if not all(name in python_encoding for name in names):
            self._warn(f"the unknown character set {_quote(names[0])} was taken for Latin-1")
            return content.decode("latin-1")
        try:
            return decode_bytes(content, convert_encodings(names), TEXT_VR_DELIMS)
        except Exception:  # a text's own damage must not make the image unreadable
            return content.decode("latin-1")

    def _charsets(self) -> list[str]:
        own = [
            f"{'ISO 2022 IR' if match[1] else 'ISO_IR'} {match[2]}" if (match := _CHARSET.fullmatch(name)) else name
            for name in self.texts("SpecificCharacterSet")
        ]
        return own or ([""] if self._parent is None else self._parent._charsets())

    def _is_little_endian(self) -> bool:
        """Return the byte order of the file, little for a data set that was made in memory."""
        if self._parent is not None:
            return self._parent._is_little_endian()
        return getattr(self._dataset, "original_encoding", (None, True))[1] is not False

    def _element(self, name: str) -> Element | None:
        """Return the first element under a name that is not empty."""
        return next((found for place in self._where(name) if (found := self._filled(place, name)) is not None), None)

    def _where(self, name: str) -> Iterator[Dataset]:
        yield self._dataset
        if name == "MediaStorageSOPClassUID":
            yield getattr(self._dataset, "file_meta", None) or Dataset()
        if name in _IN_GROUPS and self._parent is None:
            yield from self._groups()

    def _groups(self) -> list[Dataset]:
        """Return the functional groups of the first frame and the shared ones, each before the macros in it."""
        if self._places is None:
            self._places = []
            for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
                for group in self.items(name)[:1]:
                    names = [keyword_for_tag(tag) for tag in list(group.keys())]
                    macros = [_sequence(group, name) for name in names if name]
                    self._places += [group, *(macro[0] for macro in macros if macro)]
        return self._places

    @staticmethod
    def _filled(place: Dataset, name: str) -> Element | None:
        """Return the element of that name in a data set, or None where it is absent or empty."""
        tag = _tag(name)
        try:
            element = place.get_item(tag) if tag in place else None
        except Exception:  # as in `_sequence`
            return None
        value = None if element is None else element.value
        if element is not None and isinstance(value, bytes) and _representation(name, element) not in _NUMBER_TYPES:
            value = value.strip(b" \0")
        if isinstance(value, str):
            value = value.strip(" \0")
        return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else element

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


@cache
def _tag(name: str) -> BaseTag:
    return BaseTag(tag_for_keyword(name) or 0)  # no data set has group 0


def _representation(name: str, element: Element) -> str:
    """Return the value representation that an element says, or the dictionary's where it says nothing of use."""
    vr = str(element.VR or "UN")
    return dictionary_VR(name).split(" or ")[0] if vr in _UNTOLD_VRS else vr


def _sequence(place: Dataset, name: str) -> Sequence | None:
    """Return a sequence of a data set, or None where there is none that can be read."""
    tag = _tag(name)
    try:
        # The representation is asked first: pydicom would try its best with the bytes of any other.
        stored = place.get_item(tag) if tag in place else None
        value = place[tag].value if stored is not None and _representation(name, stored) == "SQ" else None
    except Exception:  # pydicom raises anything over bytes that are no sequence
        return None
    return value if isinstance(value, Sequence) else None


def _plain(value: object) -> str | float:
    """Return one of pydicom's values as text or a number."""
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return math.inf
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _one_line(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _quote(part: str | float) -> str:
    words = _one_line(str(part))
    return f"'{words if len(words) <= 40 else words[:37] + '...'}'"


def padding_range(values: Values) -> tuple[int, int] | None:
    """Return the ends of what a file calls padding (PS3.3 C.7.5.1.1.2), as written; None where it calls nothing so."""
    value, limit = values.integer("PixelPaddingValue"), values.integer("PixelPaddingRangeLimit")
    return None if value is None else (value, value if limit is None else limit)
