"""What a DICOM file says of itself: kind, side, view, patient, spacing, and what is odd; never a guess."""

import re
from typing import Any, NamedTuple

from mammovae.config import ImageKind
from mammovae.imageio.dicom_values import Values
from mammovae.imageio.image_kind import SNOMED, VIEW_CODES, image_kind, is_harmless, magnification, view_modifiers

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
_VIEW_MEANINGS = {
    "CRANIO-CAUDAL": "CC",
    "CRANIOCAUDAL": "CC",
    "MEDIO-LATERAL OBLIQUE": "MLO",
    "MEDIOLATERAL OBLIQUE": "MLO",
}
_CALIBRATED = ("GEOMETRY", "FIDUCIAL")  # PS3.3 10.7: PixelSpacing then holds at the object, not at the detector
_OLDEST = 150  # years: more is a mistyped or an invented age


class _Found(NamedTuple):
    """A value and the attribute that it was read from."""

    value: Any
    where: str


_NOTHING = _Found(None, "")


def age_in_years(text: Any) -> float | None:
    """Return a DICOM age string ("053Y", "018M", PS3.5 6.2) in years.

    Zero, as some anonymisers write, and ages that no one reaches ("999Y") are unknown.
    """
    match = re.fullmatch(r"\s*([0-9]{1,3})\s*([DWMY]?)\s*", str(text).upper())
    if not match:
        return None
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[match[2]]
    return years if 0 < years <= _OLDEST else None


def read_attributes(values: Values) -> dict[str, Any]:
    """Return the known fields of a data set by their index names, and modality; what it does not say is absent.

    Raises UnreadableError for what cannot be a mammogram (see `image_kind`).
    """
    kind = image_kind(values)[0]
    found = {
        "image_id": values.text("SOPInstanceUID"),
        "patient_id": values.text("PatientID"),
        "study_id": values.text("StudyInstanceUID"),
        "side": _side(values).value,
        "view": _view(values).value,
        "age": age_in_years(values.text("PatientAge")),
        "vendor": values.text("Manufacturer"),
        "model": values.text("ManufacturerModelName"),
        "modality": values.text("Modality"),
        "mm_per_pixel": _spacing(values, kind).value,
        "rows": values.integer("Rows"),
        "columns": values.integer("Columns"),
        "kind": kind,
    }
    return {name: value for name, value in found.items() if value is not None}


def header_warnings(values: Values) -> list[str]:
    """Return what is odd about an image whose pixels may be perfectly readable.

    What is wrong with a single value stands in `Values.warnings`. Raises UnreadableError as `read_attributes` does.
    """
    raw = values.text("PresentationIntentType") == "FOR PROCESSING" or values.text("SOPClassUID") == _FOR_PROCESSING
    age = values.text("PatientAge") or ""
    # All zeros is how anonymisers write that there is none.
    odd_age = age_in_years(age) is None and age.upper().strip("0DWMY ") != ""
    warnings = {
        "for-processing image: grey values are detector counts, not for showing": raw,
        "the file says that text is burned into the picture": values.text("BurnedInAnnotation") == "YES",
        f"PatientAge {values.quote('PatientAge')} is no age and was ignored": odd_age,
        image_kind(values)[1] or "": True,
    }
    return [sentence for sentence, applies in warnings.items() if sentence and applies]


def header_steps(values: Values) -> list[str]:
    """Return where kind, side, view and spacing were read, a sentence each, or that the file does not say them."""
    kind, remark = image_kind(values)
    spacing = _spacing(values, kind)
    found = {
        "side": _side(values),
        "view": _view(values),
        "mm a pixel": spacing._replace(value=spacing.value and f"{spacing.value:.4g}"),
    }
    return [
        f"kind {kind}{f': {remark}' if remark else ''}",
        *(f"{name} {value}: {where}" if value else f"{name} unknown" for name, (value, where) in found.items()),
    ]


def _side(values: Values) -> _Found:
    for name in ("ImageLaterality", "Laterality", "FrameLaterality"):
        value = (values.text(name) or "").upper()
        if value:
            return _Found(value, name) if value in ("L", "R") else _NOTHING
    return _NOTHING


def _view(values: Values) -> _Found:
    position = _position(values, "ViewPosition")
    if not all(is_harmless(modifier) for modifier in view_modifiers(values)):
        return _NOTHING
    for code in values.codes("ViewCodeSequence")[:1]:
        coded = VIEW_CODES.get(code.value)
        if coded is None and code.scheme not in SNOMED:
            coded = _VIEW_MEANINGS.get(code.meaning.upper())
        if coded or code.scheme in SNOMED:
            contradicted = position in ("CC", "MLO") and position != coded
            return _NOTHING if contradicted or coded is None else _Found(coded, "ViewCodeSequence")
    # CBIS-DDSM writes the view where the patient's orientation belongs.
    for name in ("ViewPosition", "PatientOrientation"):
        position = _position(values, name)
        if position:
            return _Found(position, name) if position in ("CC", "MLO") else _NOTHING
    return _NOTHING


def _position(values: Values, name: str) -> str:
    """Return a position without the harmless modifiers behind it."""
    return re.sub("(ID|NP)+$", "", (values.text(name) or "").upper())


def _spacing(values: Values, kind: ImageKind) -> _Found:
    """Return mm a pixel at the breast, where rows and columns agree.

    In contact that is what it is at the detector; of a magnified view it is as much less as the view is magnified,
    and unknown where the file does not say how much that is.
    """
    factor = magnification(values)
    for name in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        spacing = values.numbers(name)
        if len(spacing) != 2:
            continue
        down, across = spacing
        if down > 0 and abs(down - across) <= 0.01 * down:
            if factor == 1 and kind != "magnified":
                return _Found(down, name)
            if name == "PixelSpacing" and values.text("PixelSpacingCalibrationType") in _CALIBRATED:
                return _Found(down, f"{name}, calibrated")
            return _NOTHING if factor == 1 else _Found(down / factor, f"{name}, {factor:.4g} times magnified")
    return _NOTHING
