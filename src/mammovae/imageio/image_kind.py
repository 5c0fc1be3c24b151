"""What kind of picture a DICOM header or a name says that an image is: a screening mammogram, or what else."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pydicom import config
from pydicom.uid import UID

from mammovae.config import ImageKind
from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_values import Code, Values

_MAMMOGRAPHY_CLASSES = {"1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2.1"}
_TOMOSYNTHESIS_CLASS = "1.2.840.10008.5.1.4.1.1.13.1.3"
_PROJECTION_CLASSES = {"1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5"}
_BREAST_CLASSES = _MAMMOGRAPHY_CLASSES | {_TOMOSYNTHESIS_CLASS} | _PROJECTION_CLASSES
# Computed and digital radiography, hard copies and secondary captures may hold anything, mammograms too.
_POSSIBLE_CLASSES = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "1.1", "1.1.1", "7", "7.1", "7.2", "7.3", "7.4")}
_POSSIBLE_CLASSES |= {"1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30"}

_REFUSED_MODALITIES = {
    "BMD": "bone densitometry",
    "CT": "computed tomography",
    "ES": "endoscopy",
    "IO": "teeth",
    "MR": "magnetic resonance",
    "NM": "nuclear medicine",
    "OP": "photography of the eye",
    "OPT": "tomography of the eye",
    "PT": "positron emission tomography",
    "PX": "teeth",
    "RF": "fluoroscopy",
    "RTIMAGE": "radiotherapy",
    "SM": "microscopy",
    "US": "ultrasound",
    "XA": "angiography",
    "XC": "photography",
}
_REFUSED_TOO = re.compile(
    "AR|BDUS|BI|CFM|CS|DD|DF|DMS|DS|DSA|EC|EM|FA|FS|GM|IVOCT|IVUS|LS|MS|NEARFIELD|OAM|OCT|OPM|OPTBSV|OPTENF|OPV|OSS"
    "|PA|POS|ST|TG|VF"
)
_WITHOUT_IMAGES = re.compile(
    "ANN|ASMT|AU|CTPROTOCOL|DOC|ECG|EEG|EMG|EOG|EPS|FID|HD|IOL|KER|KO|LEN|M3D|PLAN|PR|REG|RESP|RTDOSE|RTINTENT|RTPLAN"
    "|RTRAD|RTRECORD|RTSEGANN|RTSTRUCT|RWV|SEG|SMR|SR|SRF|TEXTUREMAP|XAPROTOCOL"
)

_BREAST_WORDS = ("BREAST", "MAMM", "MAMA", "BRUST", "SEIN", "SENO")
_BREAST_CODES = {"T-04000", "76752008", "T-04020", "73056007", "T-04030", "80248007"}
_TEST_OBJECTS = ("PHANTOM", "TESTOBJECT", "TEST OBJECT")
_NO_PART = {"", "UNKNOWN", "OTHER", "NONE", "DEFAULT", "UNDEFINED", "UNSPECIFIED"}
# Context groups 4014 and 4015: SNOMED RT, which SNM3 shares, and SNOMED CT.
_SPECIMEN_VIEW = {"G-8310", "127457009"}
_IMPLANT_DISPLACED, _NIPPLE = {"R-102D5", "399209000"}, {"R-40AB3", "442581004"}
_MAGNIFICATION, _SPOT = {"R-102D6", "399163009"}, {"R-102D7", "399055006"}
# The abbreviations of context group 4015 before and after those of 4014: SMCC is a magnified spot view, CCID displaced.
_VIEW_POSITION = re.compile(r"([SM]{0,2})(CC|MLO|ML|LM|LMO|SIO|ISO|XCCL|XCCM|FB)((?:ID|NP)*)")
_BREAST_VIEWS = {"CC", "MLO", "XCCL", "XCCM"}  # that name no view of another part of the body
VIEW_CODES = {**dict.fromkeys(("R-10242", "399162004"), "CC"), **dict.fromkeys(("R-10226", "399368009"), "MLO")}
"""By the code of context group 4014: the views of screening."""
SNOMED = ("SCT", "SRT", "SNM3")
"""Names of SNOMED in a code sequence."""

_BIOPSY_TYPE = re.compile(r"STEREO.*|TOMO_SCOUT|SCOUT|(PREFIRE|POSTFIRE|POSTBIOPSY|POSTMARKER).*")
_BIOPSY_PADDLES = ("BIOPSY", "STEREO", "STEREOTACTIC", "NEEDLE", "LOCALIZATION", "LOCALISATION")
_LOW_ENERGY_TYPE, _LOW_ENERGY_WORDS = re.compile("LOW_ENERGY"), re.compile("LOW[ _-]ENERGY")
_RECOMBINED_TYPE = re.compile(r"SUBTRACTION|ADDITION|RECOMBINED|HIGH_ENERGY|POST_CONTRAST")
_RECOMBINED_WORDS = re.compile(r"RECOMBINED|SUBTRACTION|SUBTRACTED|HIGH[ _-]ENERGY")
_NO_AGENT = re.compile(r"[\W\d_]*|N|NA|N/A|FALSE|UNKNOWN|(NO|NONE|NOT|NIL|WITHOUT)\b.*")
_SYNTHETIC_TYPE, _TOMOSYNTHESIS_TYPE = re.compile(".*GENERATED_2D|TOMO_2D"), re.compile("TOMO.*")
_SYNTHETIC_WORDS = re.compile(
    r"\b[CGS][ -]?VIEW\b|\bV[ -]?PREVIEW\b|(INTELLIGENT|INSIGHT|SYNTH|SYNTHETIC|SYNTHESI[SZ]ED|GENERATED)[ _-]2D"
)
_TOMOSYNTHESIS_WORDS = re.compile(r"TOMOSYNTHESIS.*(RECON|PROJ|SLICE|SLAB|PLANE)")
_OTHER_TYPE = re.compile(
    r"SCREEN_?SAVE|DOSE_INFO|LOCALIZER|AXIAL|SINGLE_PLANE|BIPLANE_[AB]|PORTAL|SIMULATOR|DRR|EMISSION"
)
_OTHER_WORDS = re.compile(r"\bROI MASK|\bCROPPED IMAGE")  # CBIS-DDSM's masks and patches lie beside its films

_CESM_NAME = re.compile(r"(?<![A-Z0-9])P[0-9]+_[LR]_(CM|DM)_(?:CC|MLO)(?![A-Z])", re.IGNORECASE)

_MAGNIFICATIONS = (1.2, 10.0)
"""Least and largest factor of a magnified view: contact gives 1.0 to 1.1, a stand 1.4 to 2; above 10 is no factor."""


def image_kind(values: Values) -> tuple[ImageKind, str | None]:
    """Return the kind of an image, and a remark on where it was read or on what speaks against a mammogram.

    The first row of the table below that holds is the kind: a magnified view of a specimen is a specimen. Raises
    UnreadableError for what cannot be a mammogram by its modality, its SOP class or its part of the body.
    """
    facts = _Facts.of(values)
    _refuse(facts)
    for kind, says, rule in _RULES:
        where = rule(facts)
        if where:
            return kind, f"the file says that {says} ({where})"
    return "mammogram", "; ".join(_remarks(facts)) or None


def kind_of_name(name: str) -> ImageKind | None:
    """Return the kind that a file's name tells, as CDD-CESM's do: P1_L_CM_MLO is recombined, P1_L_DM_MLO is not."""
    match = _CESM_NAME.search(name)
    if match is None:
        return None
    return "contrast_enhanced" if match[1].upper() == "CM" else "mammogram"


def holds_no_image(values: Values) -> bool:
    """Say whether an object is by its nature no image: a report, a plan, a segmentation, a presentation state."""
    if values.has("DirectoryRecordSequence"):
        return True
    name = _class_name(_sop_class(values))
    if name is not None:
        return "Image" not in name and "US Volume" not in name
    return _WITHOUT_IMAGES.fullmatch(_modality(values)) is not None


def magnification(values: Values) -> float:
    """Return how much larger than the breast its image on the detector is, 1 for contact or where nothing is said."""
    factor = values.number("EstimatedRadiographicMagnificationFactor")
    least, largest = _MAGNIFICATIONS
    return factor if factor is not None and least <= factor <= largest else 1.0


def view_modifiers(values: Values) -> list[Code]:
    """Return the modifiers of the view (PS3.16 context group 4015)."""
    views = [values.within(view) for view in values.items("ViewCodeSequence")[:1]]
    return [code for place in (*views, values) for code in place.codes("ViewModifierCodeSequence")]


def is_harmless(modifier: Code) -> bool:
    """Say whether a modifier leaves the view what it is: an implant pushed back, a nipple in profile."""
    harmless = ((_IMPLANT_DISPLACED, "IMPLANT DISPLACED"), (_NIPPLE, "NIPPLE IN PROFILE"))
    return any(_is_code(modifier, codes, word) for codes, word in harmless)


@dataclass(frozen=True)
class _Facts:
    """What a header says that bears on the kind, in capitals."""

    values: Values
    sop_class: str
    modality: str
    image_type: list[str]  # of the image and of its first frame, with _ for spaces
    description: str  # of the series and of the processing
    paddle: set[str]
    position: re.Match | None
    views: list[Code]
    modifiers: list[Code]
    part: str | None  # of the body, None where none is said
    is_breast: bool

    @classmethod
    def of(cls, values: Values) -> "_Facts":
        types = [*values.texts("ImageType"), *values.texts("FrameType")]
        # Not the protocol's name: that is one for all images of an exam, plain and computed.
        descriptions = ("SeriesDescription", "AcquisitionDeviceProcessingDescription")
        position = _VIEW_POSITION.fullmatch((values.text("ViewPosition") or "").upper())
        part = (values.text("BodyPartExamined") or "").upper()
        views, regions = values.codes("ViewCodeSequence"), values.codes("AnatomicRegionSequence")
        parts = [name for name in (part, *(code.meaning.upper() for code in regions)) if name not in _NO_PART]
        return cls(
            values=values,
            sop_class=_sop_class(values),
            modality=_modality(values),
            image_type=[re.sub(r"[ -]+", "_", text.upper()) for text in types],
            description="; ".join(values.text(name) or "" for name in descriptions).upper(),
            paddle=set(re.findall(r"[A-Z]+", (values.text("PaddleDescription") or "").upper())),
            position=position,
            views=views,
            modifiers=view_modifiers(values),
            part=parts[0] if parts else None,
            is_breast=(position is not None and position[2] in _BREAST_VIEWS)
            or any(code.value in VIEW_CODES for code in views)
            or any(word in name for name in parts for word in _BREAST_WORDS)
            or any(code.value in _BREAST_CODES for code in regions),
        )

    def says_yes(self, name: str) -> str | None:
        return f"{name} YES" if (self.values.text(name) or "").upper() == "YES" else None

    def has(self, name: str) -> str | None:
        return name if self.values.has(name) else None

    def has_type(self, pattern: re.Pattern) -> str | None:
        return next((f"ImageType {text}" for text in self.image_type if pattern.fullmatch(text)), None)

    def has_words(self, pattern: re.Pattern) -> str | None:
        match = pattern.search(self.description)
        return f"description {match[0]}" if match else None

    def has_paddle(self, *words: str) -> str | None:
        return next((f"PaddleDescription {word}" for word in words if word in self.paddle), None)

    def has_part(self, *words: str) -> str | None:
        return f"body part {self.part}" if self.part and any(word in self.part for word in words) else None

    def has_view(self, codes: set[str], word: str) -> str | None:
        return "ViewCodeSequence" if any(_is_code(code, codes, word) for code in self.views) else None

    def has_modifier(self, codes: set[str], word: str) -> str | None:
        return "ViewModifierCodeSequence" if any(_is_code(code, codes, word) for code in self.modifiers) else None

    def has_position(self, prefix: str = "", suffix: str = "") -> str | None:
        match = self.position
        return f"ViewPosition {match[0]}" if match and prefix in match[1] and suffix in match[3] else None

    def is_low_energy(self) -> str | None:
        return self.has_type(_LOW_ENERGY_TYPE) or self.has_words(_LOW_ENERGY_WORDS)

    def is_displaced(self) -> str | None:
        return self.has_modifier(_IMPLANT_DISPLACED, "IMPLANT DISPLACED") or self.has_position(suffix="ID")


def _sop_class(values: Values) -> str:
    return values.text("SOPClassUID") or values.text("MediaStorageSOPClassUID") or ""


def _modality(values: Values) -> str:
    return (values.text("Modality") or "").upper()


def _class_name(sop_class: str) -> str | None:
    """Return the name of a storage class of the standard, None for any other text."""
    uid = UID(sop_class, config.IGNORE)
    return uid.name if uid.type == "SOP Class" and "Storage" in uid.name else None


def _is_code(code: Code, codes: set[str], word: str) -> bool:
    """Say whether a code is one of some, by its meaning where its scheme is not SNOMED's."""
    if code.value in codes:
        return True
    return code.scheme not in SNOMED and word in code.meaning.upper().replace("-", " ")


def _refuse(facts: _Facts) -> None:
    modality, name = facts.modality, _class_name(facts.sop_class)
    if holds_no_image(facts.values):
        what = f"of the class {name}" if name else f"an object of modality {modality}" if modality else "a directory"
        raise UnreadableError(f"it is {what}, which holds no image")
    words = _REFUSED_MODALITIES.get(modality)
    if words or _REFUSED_TOO.fullmatch(modality) or _WITHOUT_IMAGES.fullmatch(modality):
        raise UnreadableError(f"its modality is {modality}{f' ({words})' if words else ''}, which is no mammography")
    if name and facts.sop_class not in _BREAST_CLASSES | _POSSIBLE_CLASSES:
        raise UnreadableError(f"it is of the class {name}, which is no mammography")
    is_mammography = modality == "MG" or facts.sop_class in _BREAST_CLASSES
    if facts.part and not (facts.is_breast or is_mammography or facts.has_part(*_TEST_OBJECTS)):
        raise UnreadableError(f"its body part is {facts.part}, not the breast")


def _remarks(facts: _Facts) -> list[str]:
    """Return what is to be said of an image that is taken for a mammogram."""
    remarks = []
    if facts.modality != "MG" and (facts.modality or facts.sop_class not in _BREAST_CLASSES):
        says = f"its modality is {facts.modality}, not MG" if facts.modality else "the file does not say its modality"
        remarks.append(f"{says}: it was taken for a mammogram")
    if facts.is_low_energy():
        remarks.append("it is the low-energy image of an exam with contrast medium")
    if facts.is_displaced():
        remarks.append("the file says that there is an implant, pushed back in this view")
    if (facts.values.text("QualityControlImage") or "").upper() == "BOTH":
        remarks.append("the file says that the picture is of a patient and for quality control")
    return remarks


def _synthetic(facts: _Facts) -> str | None:
    return facts.has_type(_SYNTHETIC_TYPE) or facts.has_words(_SYNTHETIC_WORDS)


def _tomosynthesis(facts: _Facts) -> str | None:
    if facts.sop_class == _TOMOSYNTHESIS_CLASS:
        return "its SOP class"
    # A projection without motion of the tube is a mammogram in the form of an enhanced object.
    if facts.sop_class in _PROJECTION_CLASSES and (facts.values.text("PositionerMotion") or "").upper() != "STATIC":
        return "its SOP class"
    return facts.has_type(_TOMOSYNTHESIS_TYPE) or facts.has_words(_TOMOSYNTHESIS_WORDS)


def _contrast(facts: _Facts) -> str | None:
    if facts.is_low_energy():
        return None
    agent = (facts.values.text("ContrastBolusAgent") or "").upper()
    given = f"ContrastBolusAgent {agent}" if not _NO_AGENT.fullmatch(agent) else None
    return facts.has_type(_RECOMBINED_TYPE) or facts.has_words(_RECOMBINED_WORDS) or given


def _magnified(facts: _Facts) -> str | None:
    factor = magnification(facts.values)
    return (
        (f"EstimatedRadiographicMagnificationFactor {factor:.3g}" if factor > 1 else None)
        or facts.has_modifier(_MAGNIFICATION, "MAGNIF")
        or facts.has_position(prefix="M")
        or facts.has_paddle("MAG", "MAGN", "MAGNIFICATION", "MAGNIFIED")
    )


def _partial(facts: _Facts) -> str | None:
    description = (facts.values.text("PartialViewDescription") or "").upper()
    return None if re.search(r"STITCH|MOSAIC|COMBINED", description) else facts.says_yes("PartialView")


def _other(facts: _Facts) -> str | None:
    part = None if facts.part is None or facts.is_breast else f"body part {facts.part}"
    return facts.has_type(_OTHER_TYPE) or facts.has_words(_OTHER_WORDS) or part


_RULES: tuple[tuple[ImageKind, str, Callable[[_Facts], str | None]], ...] = (
    (
        "quality_control",
        "it is for quality control",
        lambda facts: (
            facts.says_yes("QualityControlImage")
            or facts.says_yes("CalibrationImage")
            or facts.has_part(*_TEST_OBJECTS)
        ),
    ),
    (
        "specimen",
        "it is of a specimen",
        lambda facts: (
            facts.has_view(_SPECIMEN_VIEW, "SPECIMEN")
            or facts.has("SpecimenDescriptionSequence")
            or facts.has("SpecimenIdentifier")
            or facts.has_part("SPECIMEN")
            or facts.has_paddle("SPECIMEN")
        ),
    ),
    (
        "stereotactic",
        "it belongs to a biopsy",
        lambda facts: (
            facts.has_type(_BIOPSY_TYPE) or facts.has("BiopsyTargetSequence") or facts.has_paddle(*_BIOPSY_PADDLES)
        ),
    ),
    ("contrast_enhanced", "it shows contrast medium", _contrast),
    ("synthetic_2d", "it was computed from tomosynthesis", _synthetic),
    ("tomosynthesis", "it belongs to tomosynthesis", _tomosynthesis),
    ("other", "it is no mammogram", _other),
    ("magnified", "it is magnified", _magnified),
    (
        "spot",
        "it is a spot view",
        lambda facts: facts.has_modifier(_SPOT, "SPOT") or facts.has_position(prefix="S") or facts.has_paddle("SPOT"),
    ),
    (
        "implant",
        "there is an implant",
        lambda facts: None if facts.is_displaced() else facts.says_yes("BreastImplantPresent"),
    ),
    ("partial", "it is a part of the view", _partial),
)
