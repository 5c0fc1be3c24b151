"""Files that lie, are damaged or attack: a seed and a number always give the same one.

A case takes a valid sample (`tests.fuzz.samples`) and does one thing to it, or two: bytes flipped, cut, inserted or
spliced; elements of the header with hostile values, VRs and lengths; headers that contradict the pixels; the size,
depth or components that a codestream states; and bombs, which are small files that ask for much memory or time.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tests.fuzz.dicom_bytes import COMPRESSED, SYNTAXES, DicomFile, Element, nested
from tests.fuzz.samples import DICOM_SAMPLES, RASTER_SAMPLES, SUFFIXES

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One file of the fuzz."""

    number: int
    name: str  # the sample, and what was done to it
    suffix: str
    content: bytes


def make_case(seed: int, number: int) -> Case:
    """Return the file of a number; two of three are DICOM."""
    rng = np.random.default_rng([seed, number])
    if rng.random() < 2 / 3:
        sample = _pick(rng, list(DICOM_SAMPLES))
        file, notes = DICOM_SAMPLES[sample](), []
        for _ in range(int(rng.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))):
            change = _pick(rng, _DICOM_CHANGES + (3 * _STREAM_CHANGES if file.codestream is not None else []))
            file, note = change(file, rng)
            notes.append(note)
        content, suffix, kind = file.encode(), ".dcm", "dicom"
    else:
        sample, notes = _pick(rng, list(RASTER_SAMPLES)), []
        kind = sample.split()[0].rstrip(",")
        content, suffix = RASTER_SAMPLES[sample](), SUFFIXES[kind]
        if rng.random() < 0.6:
            content, note = _RASTER_CHANGES[kind](content, rng)
            notes.append(note)
    if not notes or rng.random() < 0.2:
        content, note = _change_bytes(content, rng)
        notes.append(note)
    return Case(number, f"{kind} {sample}: {', '.join(notes)}", suffix, content)


def _pick(rng: Rng, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


# What is done to any file's bytes.


def _change_bytes(content: bytes, rng: Rng) -> tuple[bytes, str]:
    changes = 2 * [_flip, _flip, _cut, _insert, _remove, _splice, _number_at, _blank, _repeat] + [_never_arrived]
    return _pick(rng, changes)(content, rng)


def _place(content: bytes, rng: Rng) -> int:
    """Return an offset, in half of the cases within the first kilobyte, where headers are."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 1200)
    return int(rng.integers(max(1, end)))


def _flip(content: bytes, rng: Rng) -> tuple[bytes, str]:
    changed, count = bytearray(content), int(rng.choice([1, 2, 5, 20]))
    for _ in range(count if content else 0):
        changed[_place(content, rng)] = int(rng.integers(256))
    return bytes(changed), f"{count} bytes replaced"


def _cut(content: bytes, rng: Rng) -> tuple[bytes, str]:
    end = _place(content, rng)
    return content[:end], f"cut at {end}"


def _insert(content: bytes, rng: Rng) -> tuple[bytes, str]:
    at, more = _place(content, rng), rng.bytes(int(rng.choice([1, 2, 3, 40])))
    return content[:at] + more + content[at:], f"{len(more)} bytes inserted at {at}"


def _remove(content: bytes, rng: Rng) -> tuple[bytes, str]:
    at, count = _place(content, rng), int(rng.choice([1, 2, 3, 40, 1000]))
    return content[:at] + content[at + count :], f"{count} bytes removed at {at}"


def _splice(content: bytes, rng: Rng) -> tuple[bytes, str]:
    name = _pick(rng, list(DICOM_SAMPLES))
    other = DICOM_SAMPLES[name]().encode()
    at = _place(content, rng)
    return content[:at] + other[_place(other, rng) :], f"spliced at {at} with {name}"


def _number_at(content: bytes, rng: Rng) -> tuple[bytes, str]:
    at, number = _place(content, rng), _pick(rng, [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
    packed = struct.pack(_pick(rng, "<>") + ("I" if number > 0xFFFF else "H"), number)
    return content[:at] + packed + content[at + len(packed) :], f"{number} at {at}"


def _blank(content: bytes, rng: Rng) -> tuple[bytes, str]:
    at, count = _place(content, rng), int(rng.choice([4, 64, 1024]))
    return content[:at] + bytes(len(content[at : at + count])) + content[at + count :], f"{count} zeros at {at}"


def _never_arrived(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Leave zeros where the rest should be, as downloads that reserve their place at the beginning do."""
    at = _place(content, rng)
    return content[:at] + bytes(40_000_000), f"40 MB of zeros from {at}"


def _repeat(content: bytes, rng: Rng) -> tuple[bytes, str]:
    at, count = _place(content, rng), int(rng.choice([16, 256]))
    part = content[at : at + count]
    return content[:at] + part * int(rng.choice([2, 50])) + content[at:], f"{count} bytes repeated at {at}"


# What is done to a DICOM header.

_HOSTILE: list[Any] = [
    "", " ", "\\", "\\\\", "0", "-0", "-1", "1", "2048,0", "-1,5", "4096.0.0", "1e400", "-1e400", "1e-400", "nan", "inf",
    "NaN", "99999999999999999999", "1\\2\\3\\4", "1\\", "\\1", "ABC", "0x10", "1_000", "１２", "é", "\udcff\udcfe", "\0\0",
    "\n", "a\nb", "=1+1", "../../x", "%s%n", "{0}", "MG\\CT", "CT", "FOR PROCESSING", "9" * 1000, "x" * 70000, "ANONYMOUS",
    b"\xff\xfe", b"\0", bytes(3), b"\x1b$B", b"\xff" * 64, [0], [1], [65535], [0, 0], [1, 2, 3], [-1], 2**31,
]  # fmt: skip
"""Values for any element, whatever its VR."""
_SIZES = [0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 71, 73, 95, 97, 255, 256, 4096, 32767, 32768, 65535]
_DESCRIPTION = [
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue",
]  # fmt: skip
_NUMBERS = [
    "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "ImagerPixelSpacing", "PixelSpacing",
    "NumberOfFrames", "PatientAge", "EstimatedRadiographicMagnificationFactor", "NominalScannedPixelSpacing",
]  # fmt: skip
_TEXTS = [
    "SpecificCharacterSet", "PhotometricInterpretation", "PatientID", "PatientName", "Modality", "SOPClassUID",
    "SOPInstanceUID", "Manufacturer", "ImageLaterality", "Laterality", "ViewPosition", "PatientOrientation",
    "ImageType", "PresentationIntentType", "PresentationLUTShape", "VOILUTFunction", "RescaleType",
    "BurnedInAnnotation", "BreastImplantPresent", "PartialView", "PaddleDescription", "QualityControlImage",
    "LossyImageCompression", "StudyInstanceUID", "PixelPresentation",
]  # fmt: skip
_SEQUENCES = [
    "VOILUTSequence", "ModalityLUTSequence", "ViewCodeSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "AnatomicRegionSequence", "PartialViewCodeSequence",
]  # fmt: skip
_PHOTOMETRICS = [
    "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_RCT", "YBR_ICT", "ARGB",
    "CMYK", "monochrome2", "MONOCHROME3", "PALETTE COLOR", "MONOCHROME2\\MONOCHROME1", "", "\x00",
]  # fmt: skip
_VRS = [
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OF", "OW", "PN", "SH", "SL", "SQ",
    "SS", "ST", "TM", "UI", "UL", "UN", "US", "UT", "xx", "??", "\x00\x00",
]  # fmt: skip


def _hostile_value(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, [*file.elements, *_NUMBERS, *_TEXTS, *_SEQUENCES])
    value = _pick(rng, _HOSTILE)
    element = Element.of(keyword, b"" if keyword == "PixelData" else value)
    if not isinstance(value, (str, bytes)):
        element = replace(element, value=struct.pack("<" + "q" * len(np.atleast_1d(value)), *np.atleast_1d(value)))
    return file.with_values(**{keyword: element}), f"{keyword} = {repr(value)[:30]}"


def _hostile_number(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, _NUMBERS)
    value = _pick(rng, [one for one in _HOSTILE if isinstance(one, str)])
    return file.with_values(**{keyword: value}), f"{keyword} = {value[:30]!r}"


def _other_vr(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword, vr = _pick(rng, list(file.elements)), _pick(rng, _VRS)
    element = file.elements[keyword]
    if isinstance(element.value, (int, list)) and vr not in ("US", "SS", "UL", "SL", "FL", "FD"):
        element = replace(element, value=b"\1\0" * len(np.ravel(np.array(element.value, object))))
    elif not isinstance(element.value, (int, list)) and vr in ("US", "SS", "UL", "SL", "FL", "FD"):
        element = replace(element, value=element.value if isinstance(element.value, bytes) else element.value.encode())
    return file.with_values(**{keyword: replace(element, vr=vr)}), f"{keyword} as {vr!r}"


def _other_length(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, list(file.elements))
    length = _pick(rng, [0, 1, 2, 3, 255, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    return file.with_values(**{keyword: replace(file.elements[keyword], length=length)}), f"{keyword} of {length} bytes"


def _absent(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, list(file.elements))
    return file.with_values(**{keyword: None}), f"no {keyword}"


def _empty(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, list(file.elements))
    return file.with_values(**{keyword: replace(file.elements[keyword], value=b"")}), f"empty {keyword}"


def _contradiction(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    names = [str(name) for name in rng.choice(_DESCRIPTION, int(rng.choice([1, 2])), replace=False)]
    values = {name: int(_pick(rng, _SIZES)) for name in names}
    return file.with_values(**values), ", ".join(f"{name} = {value}" for name, value in values.items())


def _likely_lie(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    """Do what real archives do: sizes exchanged, bits left-justified or too few, a sign or frames that are not there."""
    rows, columns, bits = (file.elements[name].value if name in file.elements else 1 for name in
                           ("Rows", "Columns", "BitsStored"))  # fmt: skip
    bits = bits if isinstance(bits, int) else 12
    lies: list[dict[str, Any]] = [
        {"Rows": columns, "Columns": rows},
        {"HighBit": 15},
        {"BitsStored": max(1, bits - 4), "HighBit": max(0, bits - 5)},
        {"BitsStored": min(16, bits + 4), "HighBit": min(15, bits + 3)},
        {"PixelRepresentation": 1},
        {"NumberOfFrames": "2"},
        {"NumberOfFrames": "0"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1},
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsAllocated": 12},
        {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        {"PixelData": None},
        {"FloatPixelData": bytes(64), "PixelData": None},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": "-1", "RescaleIntercept": "1e300"},
        {"WindowCenter": "-5000", "WindowWidth": "1"},
    ]
    if rows and isinstance(rows, int):
        lies += [{"Rows": rows - 1}, {"Rows": rows + 1}, {"Rows": rows // 2, "NumberOfFrames": "2"}]
    lie = _pick(rng, lies)
    return file.with_values(**lie), ", ".join(f"{name} = {str(value)[:20]}" for name, value in lie.items())


def _other_photometric(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    name = _pick(rng, _PHOTOMETRICS)
    return file.with_values(PhotometricInterpretation=name), f"photometric {name!r}"


def _other_syntax(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    uid = _pick(rng, [*SYNTAXES.values(), "", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201", "9.9.9", "abc"])
    return replace(file, meta={"TransferSyntaxUID": uid}), f"said to be of syntax {uid!r}"


def _bad_lut(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    keyword = _pick(rng, ["VOILUTSequence", "ModalityLUTSequence"])
    descriptor = [int(_pick(rng, [0, 1, 256, 4096, 65535])), int(_pick(rng, [0, 1, 65535])), int(_pick(rng, _SIZES))]
    data = rng.bytes(int(_pick(rng, [0, 1, 2, 511, 512, 8192])))
    item: dict[str, Any] = {"LUTDescriptor": descriptor[: int(_pick(rng, [0, 1, 2, 3, 3, 3]))], "LUTData": data}
    if rng.random() < 0.2:
        item.pop(_pick(rng, list(item)))
    return file.with_values(
        **{keyword: [item] if rng.random() < 0.9 else b""}
    ), f"{keyword} {descriptor}, {len(data)} bytes"


def _nested(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    """Add sequences in sequences; at worst, many hundred of them."""
    depth = int(_pick(rng, [3, 50, 900]))
    element = nested("ViewCodeSequence", depth, file.syntax)
    return file.with_values(ViewCodeSequence=element), f"{depth} sequences in one another"


def _bomb(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    """Add zeros that deflate to nothing, or claim an image of the largest size."""
    if rng.random() < 0.5:
        return file.with_values(Rows=65535, Columns=int(_pick(rng, [2000, 2048, 65535]))), "65535 rows"
    return replace(file, syntax="deflated", codestream=None, bomb=int(_pick(rng, [8, 64, 512, 2000]))), "a deflate bomb"


_DICOM_CHANGES: list[Callable[[DicomFile, Rng], tuple[DicomFile, str]]] = [
    _hostile_value, _hostile_value, _hostile_value, _hostile_number, _hostile_number, _other_vr, _other_length, _absent,
    _empty, _contradiction, _contradiction, _likely_lie, _likely_lie, _likely_lie, _other_photometric, _other_syntax,
    _bad_lut, _nested, _bomb,
]  # fmt: skip


# What is done to a codestream.


def _stream_field(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    """Change what a codestream's own header states: sizes, depth, components, tiles."""
    assert file.codestream is not None
    stream, note = edit_codestream(file.codestream, rng)
    return replace(file, codestream=stream), note


def _stream_bytes(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    assert file.codestream is not None
    stream, note = _change_bytes(file.codestream, rng)
    return replace(file, codestream=stream), f"in the stream {note}"


def _stream_of_another(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    name = _pick(rng, [name for name, make in DICOM_SAMPLES.items() if make().syntax in COMPRESSED])
    return replace(file, codestream=DICOM_SAMPLES[name]().codestream), f"the stream of {name}"


def _stream_without_header(file: DicomFile, rng: Rng) -> tuple[DicomFile, str]:
    return replace(file, codestream=_pick(rng, [b"", b"\0\0", b"\xff\xd8", b"\xff\x4f\xff\x51"])), "no stream"


_STREAM_CHANGES = [_stream_field, _stream_field, _stream_bytes, _stream_of_another, _stream_without_header]
_MARKERS = {
    # marker: offsets in its segment, behind the length, and bytes of each field
    b"\xff\xc0": [(0, 1), (1, 2), (3, 2), (5, 1), (7, 1)],
    b"\xff\xc1": [(0, 1), (1, 2), (3, 2), (5, 1), (7, 1)],
    b"\xff\xc3": [(0, 1), (1, 2), (3, 2), (5, 1), (7, 1)],
    b"\xff\xf7": [(0, 1), (1, 2), (3, 2), (5, 1)],
    b"\xff\xf8": [(0, 1), (1, 2), (3, 2), (5, 2), (7, 2)],
    b"\xff\xda": [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)],
    b"\xff\xc4": [(0, 1), (1, 1), (5, 1), (10, 1)],
    b"\xff\xdb": [(0, 1), (1, 1)],
    b"\xff\x51": [(0, 2), *((2 + 4 * i, 4) for i in range(8)), (34, 2), (36, 1), (37, 1), (38, 1)],
    b"\xff\x52": [(0, 1), (1, 1), (2, 2), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1)],
    b"\xff\x5c": [(0, 1), (1, 1), (2, 2)],
    b"\xff\x90": [(0, 2), (2, 4), (6, 1), (7, 1)],
}


def edit_codestream(stream: bytes, rng: Rng) -> tuple[bytes, str]:
    """Change one to three fields of a marker segment, or a number of an RLE header."""
    if stream[:1] != b"\xff":
        at = 4 * int(rng.integers(16))
        number = int(_pick(rng, [0, 1, 3, 64, 65535, 2**31 - 1, 2**32 - 1]))
        return stream[:at] + struct.pack("<I", number) + stream[at + 4 :], f"RLE header {at} = {number}"
    found = [marker for marker in _MARKERS if marker in stream[:2000]]
    if not found:
        return _flip(stream, rng)
    marker = _pick(rng, found)
    start, changed, notes = stream.index(marker) + 4, bytearray(stream), []
    for _ in range(int(_pick(rng, [1, 1, 2, 3]))):
        at, width = _pick(rng, _MARKERS[marker])
        choices = [0, 1, 2, 3, 4, 7, 8, 11, 15, 16, 17, 37, 38, 71, 73, 95, 97, 127, 128, 255]
        choices += [256, 4096, 20000, 65535] if width >= 2 else []
        choices += [100000, 2**31 - 1, 2**32 - 1] if width == 4 else []
        number = int(_pick(rng, choices))
        changed[start + at : start + at + width] = number.to_bytes(width, "big")
        notes.append(f"{marker.hex()}+{at} = {number}")
    return bytes(changed), ", ".join(notes)


# What is done to other pictures.


def _change_png(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Change a field of the header, with the right checksum, or drop, repeat or cut a chunk."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    choice = int(rng.integers(4))
    if choice < 2:
        field = int(_pick(rng, range(7)))
        header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        wide = [0, 1, 71, 73, 20000, 65535, 2**31 - 1, 2**32 - 1]
        header[field] = int(_pick(rng, wide if field < 2 else [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 255]))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *header))
        note = f"IHDR {field} = {header[field]}"
    elif choice == 2:
        dropped = int(rng.integers(len(chunks)))
        note = f"no chunk {chunks.pop(dropped)[0].decode()}"
    else:
        row = bytes(20_000_000)
        bomb = zlib.compress(row)
        name = _pick(rng, [b"iTXt", b"zTXt", b"iCCP", b"IDAT"])
        text = {b"iTXt": b"k\0\1\0\0\0", b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"IDAT": b""}[name] + bomb
        chunks.insert(1, (name, text))
        note = f"a {name.decode()} of 20 MB"
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return content[:8] + body, note


def _change_tiff(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Change a tag, its type, its count or its value, in one entry or two."""
    order = "<" if content[:2] == b"II" else ">"
    changed = bytearray(content)
    (at,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, at)
    notes = []
    for _ in range(int(_pick(rng, [1, 1, 2]))):
        entry = at + 2 + 12 * int(rng.integers(count))
        (tag,) = struct.unpack_from(order + "H", content, entry)
        offset, width = _pick(rng, [(0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H"), (8, "H"), (8, "H")])
        small = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 71, 73, 256, 274, 32773, 34712, 65535]
        number = int(_pick(rng, small + ([2**31 - 1, 2**32 - 1] if width == "I" else [])))
        struct.pack_into(order + width, changed, entry + offset, number)
        notes.append(f"tag {tag} +{offset} = {number}")
    return bytes(changed), ", ".join(notes)


def _change_pgm(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Change a word of the header."""
    words = content.split(None, 4)
    at = int(rng.integers(4))
    words[at] = _pick(rng, [b"0", b"1", b"-1", b"P1", b"P2", b"P5", b"P6", b"P7", b"Pf", b"x", b"4095", b"65535", b"65536",
                            b"70000", b"99999999999", b"1e3", b"\xff", b"#", b"1" * 500])  # fmt: skip
    return b" ".join(words[:4]) + b"\n" + words[4], f"word {at} = {words[at][:12]!r}"


_RASTER_CHANGES: dict[str, Callable[[bytes, Rng], tuple[bytes, str]]] = {
    "png": _change_png,
    "tiff": _change_tiff,
    "jpeg": edit_codestream,
    "pgm": _change_pgm,
}
