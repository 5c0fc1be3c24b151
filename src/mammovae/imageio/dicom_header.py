"""What a DICOM file says of itself: side, view, patient, spacing, and what is odd; never a guess."""

import re
from typing import Any

from pydicom import Dataset

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
_VIEW_CODES = {**dict.fromkeys(("R-10242", "399162004"), "CC"), **dict.fromkeys(("R-10226", "399368009"), "MLO")}
# Context group 4015: an implant pushed back and a nipple in profile leave the view what it is; magnified,
# rolled, spot, cleavage and the other modifiers make it another kind of image.
_HARMLESS_MODIFIERS = {"R-102D5", "399209000", "R-40AB3", "442581004"}


def age_in_years(text: Any) -> float | None:
    """Return a DICOM age string ("053Y", "018M", PS3.5 6.2) in years; zero, as some anonymisers write, is unknown."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY]?)\s*", str(text).upper())
    if not match or int(match[1]) == 0:
        return None
    return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[match[2]]


def read_attributes(dataset: Dataset) -> dict[str, Any]:
    """Return the known fields of a data set by their index names, and modality; what it does not say is absent."""
    values = {
        "image_id": _text(dataset, "SOPInstanceUID"),
        "patient_id": _text(dataset, "PatientID"),
        "study_id": _text(dataset, "StudyInstanceUID"),
        "side": _side(dataset),
        "view": _view(dataset),
        "age": age_in_years(_get(dataset, "PatientAge")),
        "vendor": _text(dataset, "Manufacturer"),
        "model": _text(dataset, "ManufacturerModelName"),
        "modality": _text(dataset, "Modality"),
        "mm_per_pixel": _spacing(dataset),
    }
    shape = {name.lower(): _get(dataset, name) for name in ("Rows", "Columns")}
    values |= {name: value for name, value in shape.items() if isinstance(value, int)}
    return {name: value for name, value in values.items() if value is not None}


def header_warnings(dataset: Dataset) -> list[str]:
    """Return what is odd about an image whose pixels may be perfectly readable."""
    raw = _text(dataset, "PresentationIntentType") == "FOR PROCESSING" or dataset.get("SOPClassUID") == _FOR_PROCESSING
    warnings = {
        "for-processing image: grey values are detector counts, not for showing": raw,
        "the file says that text is burned into the picture": _text(dataset, "BurnedInAnnotation") == "YES",
        "the file says that there is an implant": _text(dataset, "BreastImplantPresent") == "YES",
    }
    return [sentence for sentence, applies in warnings.items() if applies]


def _get(dataset: Dataset, name: str) -> Any:
    """Return a value, or None where it is absent, empty or written so wrongly that it cannot be parsed."""
    try:
        value = dataset.get(name)
    except Exception:  # a malformed value of an optional attribute must not make the image unreadable
        return None
    return None if value in ("", None) else value


def _text(dataset: Dataset, name: str) -> str | None:
    value = _get(dataset, name)
    return None if value is None else str(value).strip() or None


def _side(dataset: Dataset) -> str | None:
    anatomy = dataset
    for name in ("SharedFunctionalGroupsSequence", "FrameAnatomySequence"):
        anatomy = (_get(anatomy, name) or [Dataset()])[0]
    for item, name in ((dataset, "ImageLaterality"), (dataset, "Laterality"), (anatomy, "FrameLaterality")):
        value = (_text(item, name) or "").upper()
        if value:
            return value if value in ("L", "R") else None
    return None


def _view(dataset: Dataset) -> str | None:
    position = (_text(dataset, "ViewPosition") or "").upper()
    for item in (_get(dataset, "ViewCodeSequence") or [])[:1]:
        modifiers = _get(item, "ViewModifierCodeSequence") or []
        if any(_text(modifier, "CodeValue") not in _HARMLESS_MODIFIERS for modifier in modifiers):
            return None
        coded = _VIEW_CODES.get(_text(item, "CodeValue") or "")
        if coded or _text(item, "CodingSchemeDesignator") in ("SCT", "SRT", "SNM3"):
            return None if position in ("CC", "MLO") and position != coded else coded
    # CBIS-DDSM writes the view where the patient's orientation belongs.
    position = position or (_text(dataset, "PatientOrientation") or "").upper()
    return position if position in ("CC", "MLO") else None


def _spacing(dataset: Dataset) -> float | None:
    """Return mm a pixel at the detector, where rows and columns agree."""
    for name in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        values = _get(dataset, name)
        try:
            down, across = (float(value) for value in values or ())
        except (TypeError, ValueError):
            continue
        if down > 0 and abs(down - across) <= 0.01 * down:
            return down
    return None
