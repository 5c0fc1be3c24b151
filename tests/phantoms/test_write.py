"""Phantom studies on disk: each layout's tree and tables, the defects of real archives, and the same bytes every time."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from mammovae.config import UsageError
from mammovae.perturbations.lesions import LESION_KINDS
from mammovae.phantoms.anatomy import make_phantom
from mammovae.phantoms.defects import DICOM_DEFECTS, FEWEST_PATIENTS, FILE_DEFECTS, TABLE_DEFECTS
from mammovae.phantoms.plan import Inserted, plan_study
from mammovae.phantoms.write import write_phantoms

VINDR_COLUMNS = [
    "study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
    "breast_density", "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax", "split",
]  # fmt: skip


def truth_of(root: Path) -> dict:
    return json.loads((root / "truth.json").read_text())


def presented(path: Path) -> np.ndarray:
    """What a viewer shows, 0..1: after VOI table or window, and inversion."""
    dataset = pydicom.dcmread(path)
    values = pydicom.pixels.apply_voi_lut(dataset.pixel_array, dataset).astype(float) / 4095
    return 1 - values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


def bytes_of(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in ("manifest.json", ".lock"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def vindr(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("vindr") / "raw", patients=10, size=64, seed=3, workers=1)


@pytest.fixture(scope="module")
def defective(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("defective") / "raw"
    return write_phantoms(out, patients=FEWEST_PATIENTS, size=64, seed=3, traps=True, workers=1)


def test_the_vindr_layout_is_the_released_tree(vindr):
    findings = pd.read_csv(vindr / "finding_annotations.csv")
    breasts = pd.read_csv(vindr / "breast-level_annotations.csv")
    metadata = pd.read_csv(vindr / "metadata.csv")
    assert list(findings) == VINDR_COLUMNS
    assert list(breasts) == [*VINDR_COLUMNS[:9], "split"]
    assert {"SOP Instance UID", "Patient's Age", "Manufacturer", "Manufacturer's Model Name"} <= set(metadata)
    assert len(breasts) == len(metadata) == 40 and set(metadata["SOP Instance UID"]) == set(breasts["image_id"])
    assert breasts.groupby("study_id").size().eq(4).all()
    assert breasts["image_id"].str.fullmatch("[0-9a-f]{32}").all()
    assert breasts.groupby("split")["study_id"].nunique().to_dict() == {"test": 2, "training": 8}
    assert metadata["Patient's Age"].str.fullmatch(r"0\d\dY").all()
    for row in breasts.itertuples():
        assert (vindr / "images" / str(row.study_id) / f"{row.image_id}.dicom").is_file()


def test_findings_have_boxes_and_healthy_images_have_none(vindr):
    findings = pd.read_csv(vindr / "finding_annotations.csv")
    categories = findings["finding_categories"].map(ast.literal_eval)
    empty = categories.map(lambda names: names == ["No Finding"])
    boxes = findings[["xmin", "ymin", "xmax", "ymax"]]
    assert boxes[empty].isna().all(axis=None) and boxes[~empty].notna().all(axis=None)
    assert set(findings[~empty]["finding_birads"]) <= {"BI-RADS 3", "BI-RADS 4", "BI-RADS 5"}
    assert findings[~empty]["study_id"].nunique() == 3
    images = truth_of(vindr)["images"]
    assert set(findings[~empty]["image_id"]) == {name for name, image in images.items() if image["healthy"] is False}
    for name, image in images.items():
        assert (image["birads"] <= 2) == (image["healthy"] is True), name


def test_a_box_holds_what_differs_from_the_healthy_phantom(vindr):
    for image in truth_of(vindr)["images"].values():
        if not image["lesions"]:
            continue
        healthy = make_phantom(3, image["patient"], image["side"], image["view"], size=64).image / 65535
        difference = np.abs(presented(vindr / image["path"]) - healthy) > 0.01
        xmin, ymin, xmax, ymax = image["lesions"][0]["box"]
        assert image["lesions"][0]["family"] == "test"
        assert difference[max(ymin - 2, 0) : ymax + 2, max(xmin - 2, 0) : xmax + 2].sum() == difference.sum()


def test_the_same_arguments_write_the_same_bytes_with_any_number_of_workers(vindr, tmp_path):
    again = write_phantoms(tmp_path / "raw", patients=10, size=64, seed=3, workers=2)
    assert bytes_of(again) == bytes_of(vindr)


def test_an_interrupted_run_is_completed_and_keeps_its_files(tmp_path):
    whole = write_phantoms(tmp_path / "whole", layout="folder", patients=2, size=48, finding_share=0.5, workers=1)
    broken = write_phantoms(tmp_path / "broken", layout="folder", patients=2, size=48, finding_share=0.5, workers=1)
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    (broken / "truth.json").unlink()
    first, *others = sorted(broken.rglob("*.png"))
    first.unlink()
    kept = {path: path.stat().st_mtime_ns for path in others}
    write_phantoms(broken, layout="folder", patients=2, size=48, finding_share=0.5, workers=1)
    assert bytes_of(broken) == bytes_of(whole)
    assert kept == {path: path.stat().st_mtime_ns for path in others}


def test_another_study_is_not_written_over_the_first(vindr):
    with pytest.raises(UsageError, match="patients"):
        write_phantoms(vindr, patients=11, size=64, seed=3)


def test_the_png_copy_has_one_table_with_the_finding_columns(tmp_path):
    root = write_phantoms(tmp_path / "raw", layout="vindr-png", patients=3, size=48, workers=1)
    table = pd.read_csv(root / "Metadata.csv")
    assert list(table) == VINDR_COLUMNS
    for row in table.itertuples():
        image = np.asarray(Image.open(root / "Processed_Images" / str(row.study_id) / f"{row.image_id}.png"))
        assert image.dtype == np.uint16 and image.shape == (row.height, row.width)


def test_the_folder_layout_says_by_its_folders_what_is_healthy(tmp_path):
    root = write_phantoms(tmp_path / "raw", layout="folder", patients=6, size=48, finding_share=0.5, workers=1)
    index = pd.read_csv(root / "index.csv", dtype=str, keep_default_na=False)
    folder = index["source"].str.split("/").str[0]
    assert dict(zip(folder, index["healthy"], strict=True)).items() <= {
        ("healthy", "true"), ("finding", "false"), ("unknown", ""),
    }  # fmt: skip
    assert {"healthy", "finding"} <= set(folder)
    assert {"image_id", "patient_id", "side", "view", "density", "mm_per_pixel"} <= set(index)
    assert sorted(index["source"]) == sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))


def test_the_dicom_layout_holds_files_for_presentation_that_say_what_they_are(tmp_path):
    root = write_phantoms(tmp_path / "raw", layout="dicom", patients=2, size=48, finding_share=0, workers=1)
    assert not list(root.rglob("*.csv"))
    uids = set()
    for image in truth_of(root)["images"].values():
        dataset = pydicom.dcmread(root / image["path"])
        assert dataset.SOPClassUID.name == "Digital Mammography X-Ray Image Storage - For Presentation"
        assert dataset.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
        assert (dataset.ImageLaterality, dataset.ViewPosition) == (image["side"], image["view"])
        assert dataset.PatientID == image["patient_id"] and dataset.PresentationIntentType == "FOR PRESENTATION"
        assert float(dataset.ImagerPixelSpacing[0]) == pytest.approx(image["mm_per_pixel"], rel=1e-4)
        assert dataset.PatientOrientation[0] == ("A" if image["side"] == "L" else "P")
        assert dataset.SOPInstanceUID.is_valid
        uids.add(dataset.SOPInstanceUID)
        healthy = make_phantom(0, image["patient"], image["side"], image["view"], size=48).image / 65535
        assert np.abs(presented(root / image["path"]) - healthy).max() < 0.001
    assert len(uids) == 8


def test_every_defect_is_added_and_recorded(defective):
    recorded = truth_of(defective)["trapped"]
    assert set(recorded) == {*FILE_DEFECTS, *DICOM_DEFECTS, *TABLE_DEFECTS, "benign", "metadata_columns"}
    assert all(recorded.values())
    single = [recorded[name][0] for name in (*FILE_DEFECTS, *DICOM_DEFECTS, *TABLE_DEFECTS)]
    assert len(set(single)) == len(single)


def test_file_defects_are_what_they_say(defective):
    truth = truth_of(defective)
    path = {name: defective / truth["images"][ids[0]]["path"] for name, ids in truth["trapped"].items()}
    assert not path["missing_file"].exists()
    assert pydicom.dcmread(path["truncated"], stop_before_pixels=True).Rows == 64
    with pytest.raises((ValueError, AttributeError)):
        _ = pydicom.dcmread(path["truncated"]).pixel_array
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(path["not_an_image"])
    image = truth["images"][truth["trapped"]["wrong_pose"][0]]
    shown = presented(path["wrong_pose"]) > 0.05
    on_left = shown[:, 0].sum() > shown[:, -1].sum()
    assert on_left == (image["side"] == "R")
    one, other = (presented(defective / truth["images"][name]["path"]) for name in truth["trapped"]["duplicate_pixels"])
    assert np.array_equal(one, other)
    background = presented(path["background"])
    assert np.percentile(background, 5) > 0.03


@pytest.mark.parametrize("name", ["monochrome1", "voi_lut", "jpeg2000", "jpeg_ls", "rle"])
def test_encoded_differently_an_image_shows_the_same(defective, name):
    truth = truth_of(defective)
    image = truth["images"][truth["trapped"][name][0]]
    plain = make_phantom(3, image["patient"], image["side"], image["view"], size=64).image / 65535
    assert np.abs(presented(defective / image["path"]) - plain).max() < (0.02 if name == "voi_lut" else 0.001)
    dataset = pydicom.dcmread(defective / image["path"])
    signs = {
        "monochrome1": dataset.PhotometricInterpretation == "MONOCHROME1",
        "voi_lut": "VOILUTSequence" in dataset,
    }
    assert signs.get(name, dataset.file_meta.TransferSyntaxUID.is_compressed)


def test_a_file_for_processing_says_so_and_is_dark_where_the_breast_is(defective):
    truth = truth_of(defective)
    dataset = pydicom.dcmread(defective / truth["images"][truth["trapped"]["for_processing"][0]]["path"])
    assert dataset.PresentationIntentType == "FOR PROCESSING"
    assert dataset.SOPClassUID.name.endswith("For Processing")
    assert np.percentile(dataset.pixel_array, 5) < 0.5 * np.percentile(dataset.pixel_array, 95)


def test_table_defects_are_what_they_say(defective):
    recorded = truth_of(defective)["trapped"]
    table = pd.read_csv(defective / "finding_annotations.csv")
    rows = {name: table[table["image_id"] == recorded[name][0]] for name in TABLE_DEFECTS}
    assert len(rows["several_rows"]) == 2
    assert len(ast.literal_eval(rows["two_categories"]["finding_categories"].iloc[0])) == 2
    assert rows["negative_xmin"]["xmin"].iloc[0] < 0 and rows["negative_xmin"]["laterality"].iloc[0] == "L"
    study, side = rows["one_view"][["study_id", "laterality"]].iloc[0]
    breast = table[(table["study_id"] == study) & (table["laterality"] == side)]
    assert sorted(breast["xmin"].isna()) == [False, True]
    benign = table[table["image_id"].isin(recorded["benign"])]
    assert set(benign["breast_birads"]) == {"BI-RADS 2"} and set(benign["finding_categories"]) == {"['No Finding']"}
    assert "Patient's Age" not in pd.read_csv(defective / "metadata.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "zip"}, "layout"),
        ({"patients": 0}, "patient"),
        ({"finding_share": 1.5}, "share"),
        ({"size": 9}, "size"),
        ({"patients": 3, "traps": True}, "24 patients"),
    ],
)
def test_impossible_studies_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        write_phantoms(tmp_path / "raw", **arguments)
    assert not (tmp_path / "raw").exists()


def test_every_kind_of_lesion_is_in_the_test_part_and_in_the_training_part():
    images = plan_study(seed=0, size=64, patients=100, finding_share=0.5)
    for split in ("test", "training"):
        lesions = [lesion for image in images if image.split == split for lesion in image.lesions]
        assert {lesion.spec.kind for lesion in lesions} == set(LESION_KINDS)


def test_lesions_are_of_the_kinds_and_the_contrast_that_were_asked_for():
    inserted = Inserted(("mass", "asymmetry", "distortion"), 1.5)
    images = plan_study(seed=0, size=64, patients=100, finding_share=0.5, inserted=inserted)
    usual = plan_study(seed=0, size=64, patients=100, finding_share=0.5, inserted=Inserted(inserted.kinds))
    for split in ("test", "training"):
        specs = [lesion.spec for image in images if image.split == split for lesion in image.lesions]
        assert {spec.kind for spec in specs} == set(inserted.kinds)
    for image, as_usual in zip(images, usual, strict=True):
        for lesion, other in zip(image.lesions, as_usual.lesions, strict=True):
            most = 1.0 if lesion.spec.kind == "distortion" else 10.0
            assert lesion.spec.contrast == pytest.approx(min(1.5 * other.spec.contrast, most), abs=0.02)
            assert lesion.spec.diameter_mm == other.spec.diameter_mm
