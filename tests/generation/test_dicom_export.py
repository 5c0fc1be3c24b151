"""Generated images as DICOM: the same pixels back, valid by the standard, and never taken for a patient."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mammovae.config import InputError, UsageError
from mammovae.generation.dicom_export import Origin, encode
from mammovae.imageio.read import read

POSES = [(side, view) for side in ("L", "R") for view in ("CC", "MLO")]


@pytest.fixture
def image() -> np.ndarray:
    """Noise over all 16 bits, with the ends of the range, and columns that differ from their mirror image."""
    values = np.random.default_rng(0).integers(0, 65536, (30, 21)).astype(np.uint16)
    values[0, :4] = 0, 1, 65534, 65535
    return values


def encoded(image: np.ndarray, **changes: Any) -> bytes:
    origin = {
        "key": "0/00003",
        "model": "vae",
        "run": "0123456789abcdef" * 4,
        "sampler": "prior",
        "from_patients": False,
    }
    pose: dict[str, Any] = {"side": "L", "view": "MLO", "mm_per_pixel": 0.7}
    for name, value in changes.items():
        (origin if name in origin else pose)[name] = value
    return encode(image, Origin(**origin), **pose)


def dataset_of(content: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(content))


@pytest.mark.parametrize(("side", "view"), POSES)
def test_reading_gives_the_very_pixels_with_the_chest_wall_where_the_side_has_it(image, tmp_path, side, view):
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(image, side=side, view=view))
    decoded = read(path)
    np.testing.assert_array_equal(decoded.pixels, image if side == "L" else image[:, ::-1])
    assert decoded.warnings == ()
    assert (decoded.header["side"], decoded.header["view"]) == (side, view)
    assert decoded.header["mm_per_pixel"] == 0.7
    along_rows, down_columns = dataset_of(path.read_bytes()).PatientOrientation
    assert along_rows == {"L": "A", "R": "P"}[side]
    assert down_columns == {"LMLO": "F", "RMLO": "F", "LCC": "R", "RCC": "L"}[side + view]


def test_every_grey_of_sixteen_bits_comes_back(tmp_path):
    path = tmp_path / "a.dcm"
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path.write_bytes(encoded(every))
    np.testing.assert_array_equal(read(path).pixels, every)
    dataset = dataset_of(path.read_bytes())
    assert (dataset.BitsStored, dataset.PhotometricInterpretation) == (16, "MONOCHROME2")
    assert dataset.PixelIntensityRelationshipSign == -1  # bright is where the beam was weakened
    assert dataset.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
    shown = pydicom.pixels.apply_windowing(dataset.pixel_array, dataset)
    np.testing.assert_array_equal(np.rint(shown), every)


def test_the_header_says_synthetic_and_names_no_patient(image):
    dataset = dataset_of(encoded(image))
    assert dataset.SOPClassUID.name == "Digital Mammography X-Ray Image Storage - For Presentation"
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY"]
    for keyword in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "ImageComments"):
        assert "synthetic" in str(dataset[keyword].value).lower(), keyword
    assert "mammovae" in dataset.DerivationDescription and "prior" in dataset.DerivationDescription
    (maker,) = dataset.ContributingEquipmentSequence
    (purpose,) = maker.PurposeOfReferenceCodeSequence
    assert (purpose.CodingSchemeDesignator, purpose.CodeValue) == ("DCM", "109100")  # Synthesizing Equipment
    for item in (dataset, maker):
        assert (item.Manufacturer, item.ManufacturerModelName) == ("mammovae", "vae")
        assert item.DeviceSerialNumber == "0123456789abcdef" * 4 and item.SoftwareVersions
    group = {element.keyword: element.value for element in dataset if element.tag.group == 0x0010}
    assert set(group) == {"PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"}
    assert group["PatientBirthDate"] == group["PatientSex"] == ""
    assert dataset.AccessionNumber == "" and dataset.ReferringPhysicianName == ""
    assert dataset.BurnedInAnnotation == "NO"


def test_only_an_image_made_from_patients_says_that_it_must_be_handled_like_theirs(image):
    for from_patients in (True, False):
        dataset = dataset_of(encoded(image, from_patients=from_patients))
        for sentence in (dataset.DerivationDescription, dataset.ImageComments):
            assert ("derived from images of patients" in sentence) is from_patients


def test_the_key_itself_is_not_in_the_file(image):
    assert b"1.2.840.77" not in encoded(image, key="1.2.840.77")


def test_the_same_image_gives_the_same_bytes_and_another_name_another_patient(image):
    assert encoded(image) == encoded(image.copy())
    changes = [{}, {"key": "0/00004"}, {"run": "f" * 64}, {"sampler": "latent"}, {"side": "R"}, {"view": "CC"}]
    datasets = [dataset_of(encoded(image, **change)) for change in changes]
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert len({dataset[keyword].value for dataset in datasets}) == len(changes), keyword
    uids = [dataset[name + "InstanceUID"].value for dataset in datasets for name in ("Study", "Series", "SOP")]
    assert len(set(uids)) == len(uids) and all(uid.is_valid for uid in uids)


def test_other_pixels_under_the_same_name_are_another_instance_of_the_same_study(image):
    one, other = dataset_of(encoded(image)), dataset_of(encoded(image ^ 1))
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert (one.PatientID, one.StudyInstanceUID) == (other.PatientID, other.StudyInstanceUID)


@pytest.mark.parametrize("missing", ["side", "view"])
def test_a_side_and_a_view_must_be_given(image, missing):
    with pytest.raises(UsageError, match="--side"):
        encoded(image, **{missing: None})


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_has_a_size(image, spacing):
    with pytest.raises(InputError, match="spacing"):
        encoded(image, mm_per_pixel=spacing)


@pytest.mark.parametrize("wrong", [np.zeros((3, 3)), np.zeros(3, np.uint16), np.zeros((0, 3), np.uint16)])
def test_only_a_16_bit_image_is_written(wrong):
    with pytest.raises(ValueError, match="uint16"):
        encoded(wrong)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed: apt-get install dicom3tools")
@pytest.mark.parametrize(("side", "view"), POSES)
@pytest.mark.parametrize("from_patients", [True, False])
def test_dciodvfy_finds_no_error(image, tmp_path: Path, side, view, from_patients):
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(image, side=side, view=view, from_patients=from_patients))
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert "MammographyImageForPresentation" in lines
    assert [line for line in lines if line.startswith("Error")] == []
