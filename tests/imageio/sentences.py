"""The forms that a reason for not reading a file may have: plain words, and what to do where something can be done."""

import re

_NUMBER = r"[\d,]+"
_NAME = r"[A-Za-z0-9 ./()-]+"
_FETCH = ", fetch it again"

GENERAL = [
    r"there is no such file",
    r"permission is denied",
    r"it is a folder, name a file in it",
    r"it is no regular file",
    r"the file is empty" + _FETCH,
    rf"the file has {_NUMBER} bytes, more than a mammogram has \({_NUMBER} at most\)",
    r"its zip archive states another size than it holds",
    r"its zip archive cannot be read there \(.+\)",
    rf"the disk or network does not give it \({_NAME}\), try again",
    r"it takes more memory than is there, or than a mammogram needs",
    r"it is damaged or of an unsupported kind, open it in an image viewer and save it anew( \([A-Za-z0-9 ,/-]+\))?",
    r"it is damaged or no image of a known kind \(DICOM, PNG, TIFF, JPEG, PNM\)",
    rf"it is an? {_NAME} file by its content: save it as PNG or TIFF of 16 bit",
    r"it is damaged: its data end early" + _FETCH,
    r"it is damaged: its compressed data are wrong" + _FETCH,
    rf"it says that it has {_NUMBER} rows and {_NUMBER} columns",
    rf"{_NUMBER} x {_NUMBER} pixels are more than a mammogram has \({_NUMBER} at most\)",
    r"it is in colour, give the grey mammogram itself",
]

RASTER = [
    r"parts of it are transparent, save it without an alpha channel",
    rf"a value of {_NUMBER} is above white, {_NUMBER}: leave --white out, or give one that no value exceeds",
    rf"it has {_NUMBER} (pages|frames), give one picture a file",
    r"it has several pictures, give one picture a file",
    rf"its pixels are ({_NAME}|of the unknown kind {_NUMBER}|of {_NUMBER} colours), save it in grey",
    # PNG
    r"it is damaged: a checksum is wrong" + _FETCH,
    r"it is damaged: it does not begin with its size",
    rf"it is damaged: PNG has no {_NUMBER} bits of colour type {_NUMBER}",
    r"it is damaged: a part of its header has no sensible length",
    # JPEG
    rf"it is JPEG of {_NUMBER} bits, save it as PNG or TIFF of 16 bit",
    r"it is lossless or hierarchical JPEG, save it as PNG or TIFF",
    r"its header contradicts itself: it states several sizes",
    r"it is damaged: its header states no size",
    rf"it has more than {_NUMBER} scans, which no picture needs, save it anew",
    # PNM
    r"it is damaged: its header is no PNM header",
    rf"its header states the maximum {_NUMBER}, not 1 to 65535",
    rf"a value of {_NUMBER} is above the maximum that its header states, {_NUMBER}",
    r"it is damaged: something stands among its numbers that is no number",
    r"it holds more numbers than its header states",
    # TIFF
    r"it is damaged: it is a TIFF file without a picture",
    r"it is damaged: (a tag of its header|its list of tags) has no sensible length",
    r"it is damaged: it does not say how long its strips or tiles are",
    rf"it is damaged: it has {_NUMBER} strips or tiles, not {_NUMBER}",
    r"it is damaged: its palette is too short",
    r"its strips or tiles hold (fewer|more) bytes than its header states",
    r"it is damaged: its tiles are larger than the picture",
    r"its strips or tiles are larger than a mammogram, save it without compression",
    rf"its header contradicts itself: {_NUMBER} samples a pixel for {_NUMBER} colours",
    rf"it states {_NUMBER} samples a pixel, not 1 to 16",
    r"its pixels are (floating point|signed numbers), save 8 or 16 bit without a sign",
    rf"its pixels have {_NUMBER} bits, save 8 or 16 bit",
    r"its samples differ in their number of bits, save 8 or 16 bit",
    rf"{_NUMBER} x {_NUMBER} pixels of {_NUMBER} samples are more than a mammogram has",
    rf"unsupported compression \({_NAME}, {_NUMBER} bits\), save it without one",
    rf"unsupported predictor \({_NUMBER}, {_NUMBER} bits\), save it without compression",
    r"unsupported order of bits in compressed data, save it without compression",
]

SENTENCES = [re.compile(form) for form in GENERAL + RASTER]
"""Compiled; a reason is what stands behind "cannot read FILE: ", and one form matches the whole of it."""


def is_allowed(reason: str) -> bool:
    """Say whether a reason has one of the forms."""
    return any(form.fullmatch(reason) for form in SENTENCES)
