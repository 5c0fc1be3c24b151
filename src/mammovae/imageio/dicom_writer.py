"""Synthetic DICOM mammograms: the header and the file that phantoms and generated images share."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from mammovae.config import Side, View
from mammovae.version import __version__

_IMPLEMENTATION = UID("2.25.302460177512098341867012846790523411077")
_VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


def uid(*parts: object) -> UID:
    """Return a valid UID under 2.25 that depends on the parts alone."""
    digest = hashlib.blake2s("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return UID(f"2.25.{int.from_bytes(digest, 'big')}")


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


@dataclass(frozen=True)
class ImageUids:
    """Which study and series an image belongs to, and its own SOP Instance UID."""

    study: UID
    series: UID
    instance: UID


def mammogram(
    pixels: np.ndarray, uids: ImageUids, *, bits: int, side: Side, view: View, mm_per_pixel: float
) -> Dataset:
    """Return a Digital Mammography X-Ray Image, For Presentation (PS3.3 A.27), without patient or equipment.

    pixels are uint16 (rows, columns), 0 black to 2 ** bits - 1 white, with the chest wall on the left of a left
    breast's image, on the right of a right one's; mm_per_pixel is at the detector. The window shows the whole range as
    it is. The caller adds what it knows of the patient and the equipment (PatientID, Manufacturer and the like): what
    PS3.3 demands even when it is unknown is there and empty.
    """
    ds = Dataset()
    ds.preamble = b"\0" * 128
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = _IMPLEMENTATION, "MAMMOVAE"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uids.instance
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids.study, uids.series
    _describe_acquisition(ds, side, view)
    ds.ImagerPixelSpacing = [f"{mm_per_pixel:.6g}"] * 2
    ds.SamplesPerPixel, (ds.Rows, ds.Columns) = 1, pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    # By PS3.3 C.11.2.1.2 this window maps 0 to black, 2 ** bits - 1 to white, and all between in proportion.
    ds.WindowCenter, ds.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def file_bytes(ds: Dataset) -> bytes:
    """Return a data set as the bytes of a DICOM file (PS3.10); the same data set gives the same bytes."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _describe_acquisition(ds: Dataset, side: Side, view: View) -> None:
    """Fill in patient, study, equipment and view, whose unknown parts are empty."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ds.Manufacturer = ds.DetectorType = ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    # A fixed date, because a file made twice must be the same file; an empty one breaks sorting in archives.
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20240615"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.SoftwareVersions, ds.PositionerType = __version__, "MAMMOGRAPHIC"
    ds.PresentationIntentType, ds.ImageType = "FOR PRESENTATION", ["DERIVED", "PRIMARY"]
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.Modality = "NO", "00", "MG"
    ds.BodyPartExamined = ds.OrganExposed = "BREAST"
    ds.ImageLaterality, ds.ViewPosition = side, view
    ds.AcquisitionContextSequence = []
    ds.AnatomicRegionSequence = [code("76752008", "SCT", "Breast")]
    ds.ViewCodeSequence = [code(_VIEW_CODES[view][0], "SCT", _VIEW_CODES[view][1])]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    # Along a row: from the chest wall forwards (A), or from the front back to it (P). Down a column: to the feet in
    # MLO; in CC the upper edge is the outer side, so towards the other breast.
    ds.PatientOrientation = ["A" if side == "L" else "P", {"MLO": "F", "CC": "R" if side == "L" else "L"}[view]]
