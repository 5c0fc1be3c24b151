"""What the raw trees of phantoms hold: DICOM Digital Mammography X-Ray Images, and the CSV files of each data set."""

import numpy as np
import pandas as pd
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DigitalMammographyXRayImageStorageForProcessing, JPEG2000Lossless, JPEGLSLossless, RLELossless

from mammovae.config import Layout
from mammovae.imageio.dicom_writer import ImageUids, file_bytes, mammogram, uid
from mammovae.phantoms.anatomy import image_shape
from mammovae.phantoms.patient import SIDES, VIEWS
from mammovae.phantoms.plan import ImagePlan

Lesions = list[dict]
"""What truth.json says of one image's lesions: kind, categories, birads, box and so on."""

_FINDING = ("finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax")
_BITS = 12
_WHITE = 2**_BITS - 1
_MANUFACTURER = "mammovae"
_SYNTAXES = {"jpeg_ls": JPEGLSLossless, "rle": RLELossless}
_FIXED = {"PatientSex": "F", "Manufacturer": _MANUFACTURER, "DeviceSerialNumber": "0", "DetectorType": "DIRECT"}
_FIXED |= {"DerivationDescription": "synthetic: no patient", "BreastImplantPresent": "NO", "PartialView": "NO"}
_FIXED |= {"EstimatedRadiographicMagnificationFactor": "1"}


def _model(plan: ImagePlan) -> str:
    """Return the device's model; three take turns, patient by patient."""
    return f"Phantom {('One', 'Two', 'Three')[plan.patient % 3]}"


def _describe(ds: Dataset, plan: ImagePlan) -> None:
    """Add what a phantom invents: its patient, and equipment that a real archive would name."""
    number = f"{plan.patient:05d}"
    ds.PatientName, ds.PatientID, ds.StudyID = f"Phantom^{number}", plan.patient_id, number
    ds.PatientBirthDate, ds.PatientAge = f"{2024 - plan.age:04d}0101", f"{plan.age:03d}Y"
    ds.SeriesNumber = 1 + SIDES.index(plan.side) * 2 + VIEWS.index(plan.view)
    ds.ManufacturerModelName = _model(plan)
    for keyword, value in _FIXED.items():
        setattr(ds, keyword, value)


def encode(image: np.ndarray, plan: ImagePlan) -> bytes:
    """Return the file's bytes: `image` (rows, columns) uint16 over 0..65535 as 12 bits, with the plan's header.

    The plan's defect decides on photometric interpretation, VOI table, SOP class and compression.
    """
    stored = np.rint(image.astype(np.float64) * (_WHITE / 65535)).astype(np.uint16)
    uids = ImageUids(uid(plan.study_id), uid(plan.series_id, plan.side, plan.view), uid(plan.image_id))
    ds = mammogram(stored, uids, bits=_BITS, side=plan.side, view=plan.view, mm_per_pixel=plan.mm_per_pixel)
    _describe(ds, plan)
    if plan.defect == "monochrome1":
        stored = _WHITE - stored
        ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    elif plan.defect == "voi_lut":
        stored = _with_voi_table(ds, stored)
    elif plan.defect == "for_processing":
        # Raw detector signal: bright where little tissue is in the way.
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForProcessing
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        stored = np.rint(_WHITE * np.exp(-3.0 * stored / _WHITE)).astype(np.uint16)
        for keyword in ("WindowCenter", "WindowWidth", "DerivationDescription"):
            delattr(ds, keyword)
    ds.PixelData = stored.astype("<u2").tobytes()
    if plan.defect in _SYNTAXES:
        ds.compress(_SYNTAXES[plan.defect], generate_instance_uid=False)
    elif plan.defect == "jpeg2000":
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([encode_array(stored, bits_stored=_BITS, photometric_interpretation=2)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    return file_bytes(ds)


def _with_voi_table(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """Store the values through the inverse of a gamma table: only a reader that applies the table sees the image."""
    gamma, item = 0.6, Dataset()
    table = np.rint(_WHITE * (np.arange(_WHITE + 1) / _WHITE) ** gamma).astype("<u2")
    item.LUTDescriptor = [_WHITE + 1, 0, _BITS]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", table.tobytes())
    item.LUTExplanation = "gamma 0.6"
    ds.VOILUTSequence = Sequence([item])
    return np.rint(_WHITE * (stored / _WHITE) ** (1 / gamma)).astype(np.uint16)


def tables(
    layout: Layout, plans: list[ImagePlan], lesions: dict[str, Lesions], defects: dict[str, list[str]]
) -> dict[str, str]:
    """Return the content of each CSV file by its name; `defects` gives the image_ids by defect."""
    findings = _findings(plans, lesions, defects.get("negative_xmin", []))
    if layout == "vindr":
        return {
            "breast-level_annotations.csv": _csv([{**_annotation(plan), "split": plan.split} for plan in plans]),
            "finding_annotations.csv": findings,
            "metadata.csv": _metadata(plans, incomplete="metadata_columns" in defects),
        }
    if layout == "vindr-png":
        return {"Metadata.csv": findings}
    return {"index.csv": _index(plans)} if layout == "folder" else {}


def _csv(rows: list[dict] | pd.DataFrame) -> str:
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def _annotation(plan: ImagePlan) -> dict:
    rows, columns = image_shape(plan.size)
    names = {"study_id": plan.study_id, "series_id": plan.series_id, "image_id": plan.image_id}
    image = {"laterality": plan.side, "view_position": plan.view, "height": rows, "width": columns}
    return names | image | {"breast_birads": f"BI-RADS {plan.birads}", "breast_density": f"DENSITY {plan.density}"}


def _findings(plans: list[ImagePlan], lesions: dict[str, Lesions], negative_xmin: list[str]) -> str:
    """Return finding_annotations.csv: a row a finding, and one with an empty box for an image without."""
    rows = []
    for plan in plans:
        for lesion in lesions[plan.image_id] or [None]:
            values: list[object] = ["['No Finding']", *[None] * 5]
            if lesion:
                box = [float(edge) for edge in lesion["box"]]
                if plan.image_id in negative_xmin:
                    box[0] = -3.25
                values = [str(lesion["categories"]), f"BI-RADS {lesion['birads']}", *box]
            rows.append(_annotation(plan) | dict(zip(_FINDING, values, strict=True)) | {"split": plan.split})
    return _csv(rows)


def _metadata(plans: list[ImagePlan], *, incomplete: bool) -> str:
    """Return metadata.csv, its columns named by DICOM attributes; `incomplete` omits the model and the age."""
    table = []
    for plan in plans:
        rows, columns = image_shape(plan.size)
        row = {
            "SOP Instance UID": plan.image_id,
            "Series Instance UID": plan.series_id,
            "Patient's Age": f"{plan.age:03d}Y",
            "Manufacturer": _MANUFACTURER,
            "Manufacturer's Model Name": _model(plan),
            "Photometric Interpretation": "MONOCHROME1" if plan.defect == "monochrome1" else "MONOCHROME2",
            "Imager Pixel Spacing": f"[{plan.mm_per_pixel:.6g}, {plan.mm_per_pixel:.6g}]",
        }
        row |= {"Rows": rows, "Columns": columns, "Bits Stored": _BITS}
        table.append(row | {"Window Center": 2 ** (_BITS - 1), "Window Width": 2**_BITS})
    omitted = ["Manufacturer's Model Name", "Patient's Age"] if incomplete else []
    return _csv(pd.DataFrame(table).drop(columns=omitted))


def _index(plans: list[ImagePlan]) -> str:
    """Return index.csv of the folder layout: the columns of the project's index that its owner would know."""
    rows = [
        {name: getattr(plan, name) for name in ("image_id", "patient_id", "study_id", "side", "view")}
        | {"healthy": {True: "true", False: "false", None: ""}[plan.healthy]}
        | {"density": plan.density, "birads": plan.birads, "age": plan.age}
        | {"source": plan.path, "mm_per_pixel": f"{plan.mm_per_pixel:.6g}"}
        for plan in plans
    ]
    return _csv(rows)
