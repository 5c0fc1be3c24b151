"""A phantom as a DICOM Digital Mammography X-Ray Image, For Presentation, with the same bytes every time."""

import hashlib
import io

import numpy as np
import pydicom
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from mammovae import __version__
from mammovae.phantoms.plan import ImagePlan

BITS = 12
WHITE = 2**BITS - 1
MODELS = ("Phantom One", "Phantom Two", "Phantom Three")
MANUFACTURER = "mammovae"

_IMPLEMENTATION = UID("2.25.302460177512098341867012846790523411077")
_SYNTAXES = {"jpeg_ls": JPEGLSLossless, "rle": RLELossless}
_VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


def uid(*parts: object) -> UID:
    """A valid UID under 2.25 that depends on the parts alone."""
    digest = hashlib.blake2s("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return UID(f"2.25.{int.from_bytes(digest, 'big')}")


def model_name(plan: ImagePlan) -> str:
    return MODELS[plan.patient % len(MODELS)]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _identify(ds: Dataset, plan: ImagePlan) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"Phantom^{plan.patient:05d}"
    ds.PatientID = plan.patient_id
    ds.PatientBirthDate = f"{2024 - plan.age:04d}0101"
    ds.PatientSex = "F"
    ds.PatientAge = f"{plan.age:03d}Y"
    ds.StudyInstanceUID = uid(plan.study_id)
    ds.SeriesInstanceUID = uid(plan.series_id, plan.side, plan.view)
    ds.StudyID = f"{plan.patient:05d}"
    ds.SeriesNumber = 1 + ("L", "R").index(plan.side) * 2 + ("CC", "MLO").index(plan.view)
    ds.InstanceNumber = 1
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20240615"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = model_name(plan)
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = __version__


def _describe_acquisition(ds: Dataset, plan: ImagePlan, mm_per_pixel: float) -> None:
    spacing = f"{mm_per_pixel:.6g}"
    ds.Modality = "MG"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = plan.side
    ds.ViewPosition = plan.view
    ds.BodyPartExamined = "BREAST"
    ds.PositionerType = "MAMMOGRAPHIC"
    ds.OrganExposed = "BREAST"
    ds.BreastImplantPresent = "NO"
    ds.PartialView = "NO"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.DerivationDescription = "synthetic: no patient"
    ds.AcquisitionContextSequence = Sequence([])
    anatomy = _code("76752008", "SCT", "Breast")
    ds.AnatomicRegionSequence = Sequence([anatomy])
    view = _code(_VIEW_CODES[plan.view][0], "SCT", _VIEW_CODES[plan.view][1])
    view.ViewModifierCodeSequence = Sequence([])
    ds.ViewCodeSequence = Sequence([view])
    # Along a row: from the chest wall forwards (A), or from the front back to it (P). Down a column: to the feet in
    # MLO; in CC the upper edge is the outer side, so towards the other breast.
    first = "A" if plan.side == "L" else "P"
    second = {"MLO": "F", "CC": "R" if plan.side == "L" else "L"}[plan.view]
    ds.PatientOrientation = [first, second]
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.DetectorType = "DIRECT"
    ds.EstimatedRadiographicMagnificationFactor = "1"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"


def encode(image: np.ndarray, plan: ImagePlan, mm_per_pixel: float) -> bytes:
    """The file's bytes: `image` (rows, columns) uint16 over 0..65535 as 12 bits, with the header that the plan gives.

    The plan's trap decides on photometric interpretation, VOI table, SOP class and compression.
    """
    stored = np.rint(image.astype(np.float64) * (WHITE / 65535)).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid(plan.image_id)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "MAMMOVAE"
    ds = Dataset()
    ds.file_meta = meta
    ds.preamble = b"\0" * 128
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _identify(ds, plan)
    _describe_acquisition(ds, plan, mm_per_pixel)
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, BITS, BITS - 1, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = str(2 ** (BITS - 1)), str(2**BITS)
    if plan.trap == "monochrome1":
        stored = WHITE - stored
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    elif plan.trap == "voi_lut":
        stored = _with_voi_table(ds, stored)
    elif plan.trap == "for_processing":
        # Raw detector signal: bright where little tissue is in the way.
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.SOPClassUID = meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForProcessing
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        stored = np.rint(WHITE * np.exp(-3.0 * stored / WHITE)).astype(np.uint16)
        for keyword in ("WindowCenter", "WindowWidth", "PresentationLUTShape", "DerivationDescription"):
            delattr(ds, keyword)
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if plan.trap in _SYNTAXES:
        ds.compress(_SYNTAXES[plan.trap], generate_instance_uid=False)
    elif plan.trap == "jpeg2000":
        meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([encode_array(stored, bits_stored=BITS, photometric_interpretation=2)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _with_voi_table(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """Stores the values through the inverse of a gamma table: only a reader that applies the table sees the image."""
    gamma = 0.6
    item = Dataset()
    table = np.rint(WHITE * (np.arange(WHITE + 1) / WHITE) ** gamma).astype("<u2")
    item.LUTDescriptor = [WHITE + 1, 0, BITS]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", table.tobytes())
    item.LUTExplanation = "gamma 0.6"
    ds.VOILUTSequence = Sequence([item])
    return np.rint(WHITE * (stored / WHITE) ** (1 / gamma)).astype(np.uint16)
