"""What mammovae info says of an image file: how its values became grey, what was read where, what prepare would do."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from mammovae.config import InputError
from mammovae.data.explain import explain


@pytest.fixture
def picture(breast_images: Any) -> np.ndarray:
    """A breast of 300 x 200 pixels, 0 to 4095."""
    small = breast_images(1, size=300)[0][0]
    return np.rint(small[:, :200] * 4095).astype(np.uint16)


def write_dicom(path: Path, picture: np.ndarray, **attributes: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.2")
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID, dataset.StudyInstanceUID = "MG", "P1", "1.2.3"
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    for name, item in attributes.items():
        setattr(dataset, name, item)
    dataset.PixelData = picture.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def code(value: str, meaning: str, **more: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    for name, content in more.items():
        setattr(item, name, content)
    return item


def paragraphs(text: str) -> dict[str, str]:
    """The text's blocks by their labels, each as one line."""
    blocks: dict[str, str] = {}
    label = "first"
    for line in text.splitlines():
        label = line[:12].strip() or label if line.startswith("  ") else "first"
        blocks[label] = f"{blocks.get(label, '')} {line[12:] if line.startswith('  ') else line}".strip()
    return blocks


def test_each_step_from_stored_values_to_grey_is_said_in_order(tmp_path: Path, picture: np.ndarray) -> None:
    grey = {"RescaleSlope": 2, "RescaleIntercept": -5, "WindowCenter": [4000, 1], "WindowWidth": [8000, 2]}
    path = write_dicom(tmp_path / "a.dcm", picture, PhotometricInterpretation="MONOCHROME1", **grey)
    said = paragraphs(explain(path))["grey"]
    steps = ["12 of 16 bits", "slope 2 and intercept -5", "window 1 of 2: center 4000, width 8000", "is black"]
    places = [said.index(step) for step in steps]
    assert places == sorted(places) and said.startswith("1. ")


def test_where_side_and_view_were_read_is_said(tmp_path: Path, picture: np.ndarray) -> None:
    view = {"ViewCodeSequence": [code("399368009", "medio-lateral oblique")], "ViewPosition": "MLO"}
    said = paragraphs(explain(write_dicom(tmp_path / "a.dcm", picture, ImageLaterality="L", **view)))
    assert "side L: ImageLaterality" in said["header"] and "view MLO: ViewCodeSequence" in said["header"]
    assert "ImageLaterality L, ViewPosition MLO, ViewCodeSequence medio-lateral oblique" in said["header"]
    said = paragraphs(explain(write_dicom(tmp_path / "b.dcm", picture, ViewPosition="XCCL")))
    assert "side unknown" in said["header"] and "view unknown" in said["header"]
    assert "it says ViewPosition XCCL" in said["header"]


def test_what_prepare_would_do_is_said(tmp_path: Path, picture: np.ndarray) -> None:
    attributes = {"ImageLaterality": "L", "ImagerPixelSpacing": [0.5, 0.5]}
    said = paragraphs(explain(write_dicom(tmp_path / "a.dcm", picture, **attributes)))["prepare"]
    assert said.startswith("ok: cropped to ") and "chest wall at the left edge, breast area" in said
    rows, columns = (int(part.split()[-1]) for part in said.partition(" pixels")[0].split(" x "))
    assert 150 < rows <= 300 and 60 < columns <= 200
    area = float(said.partition("cm2")[0].split()[-1])
    assert 0.5 * rows * columns < area * 100 / 0.25 < rows * columns
    turned = write_dicom(tmp_path / "b.dcm", np.ascontiguousarray(picture[:, ::-1]), **attributes)
    assert "at the right edge, where side L has it in mirrored sets alone" in paragraphs(explain(turned))["prepare"]


def test_why_prepare_would_refuse_an_image_is_said(tmp_path: Path, picture: np.ndarray) -> None:
    said = explain(write_dicom(tmp_path / "a.dcm", np.full_like(picture, 7)))
    assert paragraphs(said)["prepare"].startswith("would refuse it: ")


def test_a_kind_that_is_not_used_is_said_with_the_flag_that_uses_it(tmp_path: Path, picture: np.ndarray) -> None:
    path = write_dicom(tmp_path / "a.dcm", picture, ImageType=["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"])
    said = paragraphs(explain(path))
    assert "kind synthetic_2d" in said["header"] and said["prepare"].endswith("--kinds synthetic_2d")


def test_the_white_of_files_that_do_not_state_it_is_said(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "P1_L_CM_CC.png")
    said = paragraphs(explain(tmp_path / "P1_L_CM_CC.png"))
    assert said["grey"].endswith("holds all values of a set: of this file 4,095") and "white is 4095" in said["grey"]
    assert "kind contrast_enhanced: its name" in said["header"] and said["prepare"].startswith("ok")


def test_an_account_fits_a_terminal(tmp_path: Path, picture: np.ndarray) -> None:
    texts = {"PatientID": "P" * 64, "Manufacturer": "Maker " * 10, "ManufacturerModelName": "a\x07 model"}
    said = explain(write_dicom(tmp_path / "a.dcm", picture, ImageLaterality="L", ViewPosition="CC", **texts))
    first, *lines = said.splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 110 and "\x07" not in said
    assert (
        first == f"{tmp_path / 'a.dcm'}: image of 300 x 200 pixels (rows x columns), DICOM, Explicit VR Little Endian"
    )


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"^cannot read .*a\.dcm: "):
        explain(tmp_path / "a.dcm")
