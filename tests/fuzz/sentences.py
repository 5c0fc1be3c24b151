"""The forms that reasons and remarks may have: plain words that a user can act on.

A new sentence in mammovae needs a line here; whoever adds it asks what a user would do on reading it.
"""

import re
from pathlib import Path

CRASH = re.compile(r"decoding crashed the worker process")
HANG = re.compile(r"decoding took longer than [\d.]+ s")

_N = r"-?(?:[\d,]+(?:\.\d+)?(?:e[+-]?\d+)?|inf)"
_QUOTED = "'.*'"
_WORDS = r"[\w .,()&/\[\]-]+"
_CODEC = r"(?:JPEG|lossless JPEG|JPEG-LS|JPEG 2000)"
_SYNTAX = r"[^;]*"
_KEYWORD = r"[A-Z][A-Za-z]+"
_FETCH = r", fetch (?:it|the file) again"
_SIZE = rf"{_N} rows of {_N} pixels(?: of {_N} bits)?"

_NO_BREAST = [
    r"Nothing as large as a breast stands out from the background: check the file and its window\.",
    rf"The image is too small or too narrow \({_N} x {_N}\): check the file\.",
    r"The image is blank \(one grey value throughout\): check the file and its window\.",
    r"No dark background lies around a breast: check that the image is not inverted or all bright\.",
]
_WORKER = [
    r"decoding crashed the worker process \(.+\): the file is damaged, or its codec is(?:, or memory ran out)?",
    rf"decoding took longer than {_N} s: the file is damaged, its disk hangs, or the limit is too short",
    rf"decoding needs more memory than the {_N} GiB that one file may take: it is damaged, or far larger than a mammogram",
]
_FILE = [
    r"there is no such file",
    r"permission is denied",
    r"it is a folder, name a file in it",
    r"it is no regular file",
    rf"the file is empty{_FETCH}",
    rf"the file has {_N} bytes, more than a mammogram has \({_N} at most\)",
    rf"its zip archive states another size than it holds{_FETCH}",
    rf"its zip archive is damaged(?: there| or gone){_FETCH}",
    r"its zip archive packs it in a way that is not read, unpack the archive",
    rf"the disk or network does not give it \({_WORDS}\), try again",
    r"it takes more memory than is there, or than a mammogram needs",
    r"it is damaged or of an unsupported kind, open it in an image viewer and save it anew",
    r"it is damaged or no image of a known kind \(DICOM, PNG, TIFF, JPEG, PNM\)",
    rf"it is an? {_WORDS} file by its content: save it as PNG or TIFF of 16 bit",
    rf"it is damaged: its data end early{_FETCH}",
    rf"it is damaged: its compressed data are wrong{_FETCH}",
    rf"it says that it has {_N} rows and {_N} columns{_FETCH}",
    rf"{_N} x {_N} pixels are more than a mammogram has \({_N} at most\)",
    r"it is in colour, give the grey mammogram itself",
]
_RASTER = [
    rf"it has more than {_N} scans, which no picture needs, save it anew",
    r"it is damaged: its tiles are larger than the picture",
    r"parts of it are transparent, save it without an alpha channel",
    rf"a value of {_N} is above white, {_N}: leave --white out, or give one that no value exceeds",
    rf"it has {_N} (?:pages|frames), give one picture a file",
    r"it has several pictures, give one picture a file",
    rf"its pixels are (?:{_WORDS}|of the unknown kind {_N}|of {_N} colours), save it in grey",
    rf"it is damaged: a checksum is wrong{_FETCH}",
    rf"it is damaged: its parts are none of PNG's{_FETCH}",
    r"it is damaged: it does not begin with its size",
    rf"it is damaged: PNG has no {_N} bits of colour type {_N}",
    rf"it is JPEG of {_N} bits, save it as PNG or TIFF of 16 bit",
    r"it is lossless or hierarchical JPEG, save it as PNG or TIFF",
    r"its header contradicts itself: it states several sizes",
    r"it is damaged: its header states no size",
    r"it is damaged: its header is no PNM header",
    rf"its header states the maximum {_N}, not 1 to 65535",
    rf"a value of {_N} is above the maximum that its header states, {_N}",
    r"it is damaged: something stands among its numbers that is no number",
    r"it holds more numbers than its header states",
    r"it is damaged: it is a TIFF file without a picture",
    r"it is damaged: (?:a tag of its header|its list of tags|a part of its header) has no sensible length",
    r"it is damaged: it does not say how long its strips or tiles are",
    rf"it is damaged: it has {_N} strips or tiles, not {_N}",
    r"it is damaged: its palette is too short",
    r"its strips or tiles hold (?:fewer|more) bytes than its header states",
    r"its strips or tiles are larger than a mammogram, save it without compression",
    rf"its header contradicts itself: {_N} samples a pixel for {_N} colours",
    rf"it states {_N} samples a pixel, not 1 to 16",
    r"its pixels are (?:floating point|signed numbers), save 8 or 16 bit without a sign",
    rf"its pixels have {_N} bits, save 8 or 16 bit",
    r"its samples differ in their number of bits, save 8 or 16 bit",
    rf"{_N} x {_N} pixels of {_N} samples are more than a mammogram has",
    rf"unsupported (?:compression|predictor) \({_WORDS}\), save it without (?:one|compression)",
    r"unsupported order of bits in compressed data, save it without compression",
]
_DICOM_KIND = [
    rf"it is (?:of the class {_WORDS}|an object of modality .+|a directory), which holds no image",
    rf"its modality is .+(?: \({_WORDS}\))?, which is no mammography",
    rf"it is of the class {_WORDS}, which is no mammography",
    r"its body part is .+, not the breast",
    rf"it has {_N} frames \(tomosynthesis or a series\), give 2-D mammograms",
]
_DICOM_HEADER = [
    rf"its DICOM header ends in zeros{_FETCH}",
    rf"this {_WORDS} holds no integer pixel data: it is truncated or no mammogram",
    rf"its DICOM header is damaged(?:: sequences lie in each other without end|{_FETCH})",
    rf"its deflated data set is damaged{_FETCH}",
    rf"its deflated data set holds more than {_N} bytes, which is more than its image needs",
    rf"{_KEYWORD} is absent or empty",
    rf"{_KEYWORD} is {_QUOTED}, no whole number",
    rf"{_KEYWORD} is {_N}, not {_N}(?: or {_N})*",
    rf"PhotometricInterpretation is (?:{_QUOTED}|absent or empty), not one of [A-Z0-9_, ]+",
    rf"SamplesPerPixel {_N} contradicts PhotometricInterpretation [A-Z0-9_ ]+, which has {_N}",
    rf"BitsStored is {_N} of {_N} bits allocated, not 1 to {_N}",
    rf"its values need {_N} bits, BitsStored says {_N}",
    r"its palette \(PALETTE COLOR\) is damaged or absent, give the grey mammogram itself",
    r"its coloured pixels are damaged, give the grey mammogram itself",
    rf"a value of {_N} is above what BitsStored allows, {_N}",
    r"its ModalityLUTSequence is damaged, and pixel values mean nothing without",
    rf"its modality LUT is damaged: {_WORDS}",
    rf"its Rescale\w+ (?:{_QUOTED} )?is (?:0, which makes every pixel the same|not one number, and pixel values mean nothing without)",
    rf"its RescaleSlope {_N} and RescaleIntercept {_N} leave no range",
]
_DICOM_PIXELS = [
    rf"it ends where its pixel data should begin: it is truncated{_FETCH}",
    rf"its pixel data have {_N} bytes, {_SIZE} need {_N}: (?:it is truncated|Rows or Columns are wrong)",
    rf"its pixel data are {_N} times what {_SIZE} need: it has several frames, (?:give 2-D images|or BitsAllocated is wrong)",
    rf"its pixel data are not compressed, although the transfer syntax says {_SYNTAX}",
    rf"its transfer syntax {_SYNTAX} is not (?:supported|what its compressed data begin as: they are damaged)",
    r"its compressed pixel data are damaged: what should be a fragment is none",
    rf"its compressed pixel data are cut off: the file is truncated{_FETCH}",
    rf"its compressed pixel data have {_N} bytes, far more than its pixels need",
    rf"its compressed pixel data are cut into more than {_N} fragments",
    rf"its compressed stream is cut off within its header{_FETCH}",
    r"its compressed stream is neither JPEG nor JPEG 2000: it is damaged",
    rf"its {_CODEC} stream is damaged(?: in its header)?{_FETCH}",
    rf"its {_CODEC} stream has no end: it is truncated{_FETCH}",
    rf"its {_CODEC} stream is of a kind that no decoder here knows \(SOF{_N}\)",
    rf"its {_CODEC} stream does not state its size",
    rf"its {_CODEC} stream claims {_N} x {_N} pixels in {_N} bytes, which no picture with content is",
    rf"its {_CODEC} stream is damaged: it claims {_N} bits a pixel, not 8 or 12",
    rf"its {_CODEC} stream is damaged: it claims {_N} wavelet levels",
    rf"its {_CODEC} stream is damaged: a tile part is shorter than its own header",
    rf"its {_CODEC} stream has more than {_N} (?:scans, which no picture needs|tile parts)",
    rf"its {_CODEC} stream is cut into {_N} (?:tiles|precincts) \({_N} at most\)",
    rf"its {_CODEC} stream has components of different sizes or depths, no grey picture has",
    rf"its {_CODEC} stream has {_N} rows and {_N} columns, the header says {_N} and {_N}(?:: Rows and Columns are exchanged)?",
    rf"its {_CODEC} stream has {_N} components, SamplesPerPixel is {_N}",
    rf"its {_CODEC} stream has {_N} bits a pixel, not [18] to 16",
    r"its JPEG 2000 file holds no codestream",
    rf"its RLE data (?:are cut off within their header|have a damaged header){_FETCH}",
    rf"its RLE data have {_N} segments, SamplesPerPixel {_N} makes {_N} or {_N}",
    rf"its RLE data hold more than {_N} x {_N} pixels: Rows or Columns are wrong",
    rf"its RLE data end after {_N} of {_N} pixels: they are truncated, or Rows or Columns are wrong",
    rf"its RLE data have rows of {_N} pixels where Columns says {_N}: Rows and Columns are exchanged",
]
_UNREADABLE = (*_FILE, *_RASTER, *_DICOM_KIND, *_DICOM_HEADER, *_DICOM_PIXELS)
REASONS = [re.compile(form) for form in (*(f"cannot read PATH: (?:{form})" for form in _UNREADABLE), *_WORKER)]
NO_BREAST = [re.compile(form) for form in _NO_BREAST]

REMARKS: list[re.Pattern[str]] = [re.compile(form) for form in [
    # Of rasters
    rf"turned upright as its orientation tag {_N} says",
    rf"all values lie below 1/{_N} of the range of {_N} bits, as where {_N} bits were saved unscaled: see --white",
    r"one value is marked as transparent, which was ignored",
    r"its header does not say whether 0 is black, which was assumed",
    # Of what a DICOM header says
    rf"the file says that {_WORDS}",
    r"(?:its modality is .+, not MG|the file does not say its modality): it was taken for a mammogram",
    r"it is the low-energy image of an exam with contrast medium",
    r"for-processing image: grey values are detector counts, not for showing",
    rf"{_KEYWORD} (?:{_QUOTED}|{_N}) is no (?:number|whole number|age) and was ignored",
    rf"{_KEYWORD} {_QUOTED} was read as {_N}",
    rf"{_KEYWORD} is damaged and was ignored",
    rf"{_KEYWORD} holds {_N} bytes, (?:which are no number|too long for what it is), and was ignored",
    rf"the unknown character set {_QUOTED} was taken for Latin-1",
    # Of grey
    r"an empty modality LUT was ignored",
    rf"a damaged VOI LUT was ignored \({_WORDS}\)",
    rf"the (?:VOI|modality) LUT says that its entries have {_N} bits, they have {_N}",
    rf"{_N} of {_N} entries of the (?:VOI|modality) LUT are above its {_N} bits and were cut",
    r"a window without a (?:center|width) was ignored",
    rf"a window of width {_N} was ignored",
    rf"the window of center {_N} and width {_N} makes all values one grey",
    rf"the unknown VOI LUT function {_QUOTED} was taken for LINEAR",
    r"PresentationLUTShape .+ contradicts MONOCHROME[12], which was followed",
    rf"padding of {_N} to {_N} (?:does not fit into {_N} bits|would be every value) and was ignored",
    rf"the picture is nearly one grey, {_N} to {_N} of 65535: check its window or LUT and BitsStored",
    # Of pixels
    rf"its pixel data are not compressed, although the transfer syntax says {_SYNTAX}",
    rf"its pixels are {_CODEC}, although the transfer syntax says {_SYNTAX}",
    rf"its {_CODEC} stream has {_N} bits a pixel, BitsStored says otherwise",
    rf"its {_CODEC} stream is (?:un)?signed, PixelRepresentation {_N} \((?:un)?signed\) was followed",
    rf"values contradict BitsStored {_N}, {_N} bits were read",
    rf"{_N} of {_N} pixels are above the stated {_N} bits and were cut",
    rf"bits above the stated {_N} are set in every pixel and were left out",
    rf"HighBit {_N} contradicts {_N} bits stored, the lowest {_N} bits were read",
    rf"its {_N} bits were moved down from HighBit {_N}",
    rf"Pixel Data claims {_N} bytes of which the file holds {_N}",
    rf"{_N} bytes (?:of its RLE data are left over|are left over behind its pixels)",
    r"the end of its compressed pixel data is not marked",
    r"runs of its RLE data go beyond the ends of rows, so that Columns could not be checked",
    # pydicom's own, of a header that it could read
    r"expected (?:ex|im)plicit VR, but found (?:ex|im)plicit VR",
    r"invalid value for VR [A-Z]{2}",
    r"unknown encoding",
    rf"the value length \({_N}\) exceeds the maximum length of {_N} allowed for VR [A-Z]{{2}}",
    r"(?:incorrect value|value) for Specific Character Set",
    r"failed to decode byte string with encoding",
    r"found unknown escape sequence in encoded string value",
    r"(?:end of file|unable to|no) [\w ,()']+",
]]  # fmt: skip
FORBIDDEN = re.compile(
    r"\b\w+(?:Error|Exception|Warning)\b|NoneType|Traceback|unexpected|<[\w.]+ (?:object|at)|0x[0-9a-f]{6,}|\bNone\b|"
    r"\bobject (?:is|has|does)\b|\b(?:argument|subscript|iterable|ndarray|dtype|numpy|tuple|memoryview|plugins?)\b|"
    r"index out|unpack requires|invalid literal|could not convert|cannot reshape|\bbuffer\b|mammovae\.|\.py\b"
)
"""A programmer's words, which are wrong in whatever form."""


def fault_of_reason(sentence: str, path: Path) -> str | None:
    """Return what is wrong with the reason of a refusal, or None."""
    plain = sentence.replace(str(path), "PATH")
    if (fault := _fault_of_form(plain)) is not None:
        return fault
    if any(form.fullmatch(plain) for form in REASONS):
        return None
    # Where no breast was found, the remarks on the image stand before the reason: often they say why.
    *remarks, last = plain.split("; ")
    if any(form.fullmatch(last) for form in NO_BREAST):
        return fault_of_remarks("; ".join(remarks))
    return f"a reason of no allowed form: {plain}"


def is_allowed(words: str) -> bool:
    """Say whether what stands behind "cannot read FILE: " has one of the forms."""
    return any(form.fullmatch(f"cannot read PATH: {words}") for form in REASONS)


def fault_of_remarks(sentences: str) -> str | None:
    """Return what is wrong with the remarks on a file that was read, or None."""
    if (fault := _fault_of_form(sentences)) is not None:
        return fault
    wrong = [one for one in sentences.split("; ") if one and not any(form.fullmatch(one) for form in REMARKS)]
    return f"a remark of no allowed form: {wrong[0]}" if wrong else None


def _fault_of_form(sentence: str) -> str | None:
    if not sentence.isprintable():
        return f"characters that cannot be printed: {sentence!r}"
    if len(sentence) > 700:
        return f"{len(sentence)} characters: {sentence[:200]}"
    found = FORBIDDEN.search(sentence)
    return f"a programmer's words ({found[0]}): {sentence}" if found else None
