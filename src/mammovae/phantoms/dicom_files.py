"""A phantom as a DICOM Digital Mammography X-Ray Image, For Presentation, with the same bytes every time."""

import numpy as np
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DigitalMammographyXRayImageStorageForProcessing, JPEG2000Lossless, JPEGLSLossless, RLELossless

from mammovae.imageio.dicom_writer import ImageUids, file_bytes, mammogram, uid
from mammovae.phantoms.plan import ImagePlan

BITS = 12
WHITE = 2**BITS - 1
MODELS = ("Phantom One", "Phantom Two", "Phantom Three")
MANUFACTURER = "mammovae"

_SYNTAXES = {"jpeg_ls": JPEGLSLossless, "rle": RLELossless}


def model_name(plan: ImagePlan) -> str:
    """Return the device's model; three take turns, patient by patient."""
    return MODELS[plan.patient % len(MODELS)]


def _describe(ds: Dataset, plan: ImagePlan) -> None:
    """Add what a phantom invents: its patient, and equipment that a real archive would name."""
    ds.PatientName = f"Phantom^{plan.patient:05d}"
    ds.PatientID = plan.patient_id
    ds.PatientBirthDate = f"{2024 - plan.age:04d}0101"
    ds.PatientSex = "F"
    ds.PatientAge = f"{plan.age:03d}Y"
    ds.StudyID = f"{plan.patient:05d}"
    ds.SeriesNumber = 1 + ("L", "R").index(plan.side) * 2 + ("CC", "MLO").index(plan.view)
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = model_name(plan)
    ds.DeviceSerialNumber = "0"
    ds.DerivationDescription = "synthetic: no patient"
    ds.BreastImplantPresent = "NO"
    ds.PartialView = "NO"
    ds.DetectorType = "DIRECT"
    ds.EstimatedRadiographicMagnificationFactor = "1"


def encode(image: np.ndarray, plan: ImagePlan) -> bytes:
    """Return the file's bytes: `image` (rows, columns) uint16 over 0..65535 as 12 bits, with the plan's header.

    The plan's defect decides on photometric interpretation, VOI table, SOP class and compression.
    """
    stored = np.rint(image.astype(np.float64) * (WHITE / 65535)).astype(np.uint16)
    uids = ImageUids(uid(plan.study_id), uid(plan.series_id, plan.side, plan.view), uid(plan.image_id))
    ds = mammogram(stored, uids, bits=BITS, side=plan.side, view=plan.view, mm_per_pixel=plan.mm_per_pixel)
    _describe(ds, plan)
    if plan.defect == "monochrome1":
        stored = WHITE - stored
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    elif plan.defect == "voi_lut":
        stored = _with_voi_table(ds, stored)
    elif plan.defect == "for_processing":
        # Raw detector signal: bright where little tissue is in the way.
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForProcessing
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        stored = np.rint(WHITE * np.exp(-3.0 * stored / WHITE)).astype(np.uint16)
        for keyword in ("WindowCenter", "WindowWidth", "DerivationDescription"):
            delattr(ds, keyword)
    ds.PixelData = stored.astype("<u2").tobytes()
    if plan.defect in _SYNTAXES:
        ds.compress(_SYNTAXES[plan.defect], generate_instance_uid=False)
    elif plan.defect == "jpeg2000":
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([encode_array(stored, bits_stored=BITS, photometric_interpretation=2)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    return file_bytes(ds)


def _with_voi_table(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """Store the values through the inverse of a gamma table: only a reader that applies the table sees the image."""
    gamma = 0.6
    item = Dataset()
    table = np.rint(WHITE * (np.arange(WHITE + 1) / WHITE) ** gamma).astype("<u2")
    item.LUTDescriptor = [WHITE + 1, 0, BITS]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", table.tobytes())
    item.LUTExplanation = "gamma 0.6"
    ds.VOILUTSequence = Sequence([item])
    return np.rint(WHITE * (stored / WHITE) ** (1 / gamma)).astype(np.uint16)
