"""Labels from a CSV: which file a row is about, what its cells say, and what is said of labels that were not used."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.data.example_trees import dicom_file, listed, picture, write_csv

from mammovae.config import InputError
from mammovae.data import index

folder, dicom = partial(listed, "folder"), partial(listed, "dicom")


def health(frame: pd.DataFrame) -> dict[str, bool | None]:
    return {str(row.source): None if pd.isna(row.healthy) else bool(row.healthy) for row in frame.itertuples()}


def tree(root: Path, names: str, *rows: dict[str, Any], table: str = "index.csv") -> Path:
    for name in names.split():
        picture(root / name)
    write_csv(root / table, rows)
    return root


def test_a_name_that_is_two_files_name_is_refused_and_both_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "p1/L_CC.png p2/L_CC.png p3/L_CC.png", {"source": "L_CC.png", "healthy": 1, "patient_id": "p1"})
    with pytest.raises(InputError, match=r"'L_CC.png' names p1/L_CC.png and p2/L_CC.png: name each file by its path"):
        folder(tmp_path)


def test_a_name_without_suffix_that_is_two_files_name_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.png a.jpg", {"image_id": "a", "healthy": 1})
    with pytest.raises(InputError, match=r"names a.jpg and a.png"):
        folder(tmp_path)


def test_two_rows_that_name_one_file_are_refused(tmp_path: Path) -> None:
    rows = ({"source": "old/train/a.png", "healthy": 1}, {"source": "old/test/a.png", "healthy": 0})
    with pytest.raises(InputError, match=r"'old/train/a.png' and 'old/test/a.png' both name the file a.png"):
        folder(tree(tmp_path, "a.png", *rows))


@pytest.mark.parametrize(
    "name",
    [
        "p1/a.png",
        "./p1/a.png",
        "p1\\a.png",
        "p1/a",
        "a",
        "a.png",
        "/data/set/p1/a.png",
        "D:\\set\\p1\\a.png",
        "x/p1/a.png",
    ],
)
def test_a_file_is_named_by_its_path_from_any_root_or_by_what_only_it_is_called(tmp_path: Path, name: str) -> None:
    frame = folder(tree(tmp_path, "p1/a.png p2/b.png", {"source": name, "healthy": 0}))
    assert health(frame) == {"p1/a.png": False, "p2/b.png": None}


def test_the_longest_end_of_a_path_counts(tmp_path: Path) -> None:
    rows = [{"source": f"/data/x/{name}/a.png", "healthy": n} for n, name in enumerate(("p1", "p2"))]
    assert health(folder(tree(tmp_path, "p1/a.png p2/a.png", *rows))) == {"p1/a.png": False, "p2/a.png": True}


def test_a_file_in_another_folder_than_the_row_says_is_not_meant(tmp_path: Path) -> None:
    rows = ({"source": "p1/a.png", "healthy": 1}, {"source": "p2/b.png", "healthy": 1})
    frame = folder(tree(tmp_path, "p2/a.png p2/b.png", *rows))
    assert health(frame) == {"p2/a.png": None, "p2/b.png": True, "p1/a.png": True}
    assert frame.set_index("source")["status"]["p1/a.png"] == "missing"


def test_what_is_listed_and_no_image_is_one_row_that_says_why(tmp_path: Path) -> None:
    rows = [{"source": name, "healthy": 1} for name in ("a.png", "gone.png", "pipe.png", "notes.png")]
    tree(tmp_path, "a.png", *rows)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.png").write_text("seen")
    frame = folder(tmp_path).set_index("source")
    assert frame["status"].to_dict() == {
        "a.png": "ok", "gone.png": "missing", "pipe.png": "failed", "notes.png": "failed",
    }  # fmt: skip
    assert "regular file" in frame["reason"]["pipe.png"] and "no image" in frame["reason"]["notes.png"]


def test_accents_match_however_they_are_written(tmp_path: Path) -> None:
    assert health(folder(tree(tmp_path, "u\u0308.png", {"source": "\u00fc.png", "healthy": 1}))) == {
        "u\u0308.png": True
    }


def test_where_no_row_names_a_file_one_sentence_shows_both_sides(tmp_path: Path) -> None:
    tree(tmp_path, "1/a.png 1/b.png", {"source": "scan_07.dcm", "healthy": 1})
    with pytest.raises(InputError) as error:
        folder(tmp_path)
    assert "'scan_07.dcm'" in str(error.value) and "'1/a.png'" in str(error.value) and "\n" not in str(error.value)


def test_labels_by_uid_reach_all_exports_of_one_object_but_not_objects_that_only_share_a_uid(tmp_path: Path) -> None:
    for name in ("a/1.dcm", "b/1.dcm"):
        dicom_file(tmp_path / name, SOPInstanceUID="1.2", PatientID="p")
    write_csv(tmp_path / "index.csv", [{"SOPInstanceUID": "1.2", "healthy": 0}])
    assert health(dicom(tmp_path)) == {"a/1.dcm": False, "b/1.dcm": False}
    dicom_file(tmp_path / "c" / "1.dcm", SOPInstanceUID="1.2", PatientID="q")
    with pytest.raises(InputError, match=r"'1.2' names a/1.dcm and b/1.dcm"):
        dicom(tmp_path)


@pytest.mark.parametrize("word", ["No finding", "NO FINDING", "normal", "['No Finding']", "no_finding"])
def test_the_category_no_finding_is_healthy_and_no_finding(tmp_path: Path, word: str) -> None:
    frame = folder(tree(tmp_path, "a.png", {"source": "a.png", "category": word, "xmin": ""}))
    assert health(frame) == {"a.png": True} and frame["findings"][0] == []


def test_a_list_of_categories_is_a_finding_each(tmp_path: Path) -> None:
    frame = folder(tree(tmp_path, "a.png", {"source": "a.png", "category": "['Mass', 'Nipple Retraction']"}))
    assert [finding["category"] for finding in frame["findings"][0]] == ["Mass", "Nipple Retraction"]
    assert health(frame) == {"a.png": False}


def test_what_healthy_says_comes_before_a_category_of_no_finding(tmp_path: Path) -> None:
    frame = folder(tree(tmp_path, "a.png", {"source": "a.png", "category": "No finding", "healthy": 0}))
    assert health(frame) == {"a.png": False}


@pytest.mark.parametrize("view", ["ML", "LM", "AT", "LMO", "something"])
def test_another_view_is_a_row_without_a_view_and_a_remark(tmp_path: Path, view: str) -> None:
    row = folder(tree(tmp_path, "a.png", {"source": "a.png", "view": view, "healthy": 1})).iloc[0]
    assert pd.isna(row["view"]) and row["healthy"] and row["status"] == "ok"
    assert row["reason"] == f"the view '{view}' is neither CC nor MLO"


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_a_column_of_row_numbers_as_pandas_writes_it_is_passed_over(tmp_path: Path, name: str) -> None:
    assert health(folder(tree(tmp_path, "a.png", {name: 0, "source": "a.png", "healthy": 1}))) == {"a.png": True}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        *((word, True) for word in ("1", "1.0", "1,0", "TRUE", "true", "Yes", "Y", "t")),
        *((word, False) for word in ("0", "0.0", "FALSE", "no", "N", "f")),
        *((word, None) for word in ("", "nan", "NaN", "NA", "N/A", "None", "null")),
    ],
)
def test_health_is_read_as_it_is_usually_written_and_a_blank_is_unknown(
    tmp_path: Path, cell: str, expected: bool | None
) -> None:
    assert health(folder(tree(tmp_path, "a.png", {"source": "a.png", "healthy": cell}))) == {"a.png": expected}


@pytest.mark.parametrize("cell", ["2", "10", "maybe", "-1", "0.5"])
def test_health_that_is_neither_is_refused_with_its_cell(tmp_path: Path, cell: str) -> None:
    with pytest.raises(InputError, match=r"index.csv, row 2: healthy is .* true or false \(1 or 0\) belongs"):
        folder(tree(tmp_path, "a.png", {"source": "a.png", "healthy": cell}))


def test_a_table_may_say_which_kind_an_image_is(tmp_path: Path) -> None:
    frame = folder(tree(tmp_path, "a.png b.png", {"source": "a.png", "kind": "Synthetic 2D"}))
    assert frame["kind"].fillna("").tolist() == ["synthetic_2d", ""]


def test_names_of_cdd_cesm_tell_recombined_images_from_low_energy_ones(tmp_path: Path) -> None:
    for name in ("P1_L_DM_MLO.jpg", "P1_L_CM_MLO.jpg"):
        picture(tmp_path / name)
    frame = folder(tmp_path).set_index("image_id")
    assert frame.loc["P1_L_CM_MLO", "kind"] == "contrast_enhanced"
    assert frame.loc["P1_L_DM_MLO", "kind"] != "contrast_enhanced"


def test_of_several_tables_the_one_that_can_hold_labels_is_used_and_the_others_are_noted(tmp_path: Path) -> None:
    tree(tmp_path, "a.png", {"source": "a.png", "healthy": 1}, table="truth.csv")
    write_csv(tmp_path / "metadata.csv", [{"Series UID": "1.2"}])
    write_csv(tmp_path / "failures.csv", [{"image_id": "x", "source": "a.png", "reason": "y"}])
    frame = folder(tmp_path)
    assert health(frame) == {"a.png": True}
    (note,) = index.notes(frame)
    assert "failures.csv, metadata.csv" in note and "truth.csv" not in note


@pytest.mark.parametrize("kind", ["folder", "dicom"])
def test_two_tables_that_may_both_hold_labels_are_refused(tmp_path: Path, kind: str) -> None:
    tree(tmp_path, "a.png", {"source": "a.png", "healthy": 1}, table="b.csv")
    dicom_file(tmp_path / "a.dcm")
    write_csv(tmp_path / "c.csv", [{"source": "a.png", "healthy": 0}])
    with pytest.raises(InputError, match=r"b.csv and c.csv .* name one of them index.csv"):
        listed(kind, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "Series UID,Collection\n1.2,x\n"),
        ("labels.csv", "source healthy\na.dcm 1\n"),
        ("labels.xlsx", "PK"),
        ("labels.tsv", "source\thealthy\na.dcm\t1\n"),
    ],
)
def test_a_table_beside_dicom_that_is_not_used_is_noted(tmp_path: Path, name: str, content: str) -> None:
    dicom_file(tmp_path / "a.dcm")
    (tmp_path / name).write_text(content)
    frame = dicom(tmp_path)
    assert health(frame) == {"a.dcm": None}
    (note,) = index.notes(frame)
    assert name in note and "index.csv" in note


def test_notes_outlive_what_prepare_does_to_a_listing(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", ImageLaterality="L")
    write_csv(tmp_path / "metadata.csv", [{"Series UID": "1.2"}])
    frame = index.limit_present(index.matching(dicom(tmp_path), side="L"), 1)
    assert len(frame) == 1 and len(index.notes(frame)) == 1


def test_pictures_in_a_tree_of_dicom_are_counted_in_a_note(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm")
    picture(tmp_path / "b.png")
    assert index.notes(dicom(tmp_path)) == [
        "pictures that are no DICOM were passed over: 1 (the kind folder reads them)"
    ]


def test_a_table_of_one_column_is_asked_for_its_separator(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "index.csv").write_text("source healthy\na.png 1\n")
    with pytest.raises(InputError, match=r"unknown column 'source healthy'.* should commas separate its cells"):
        folder(tmp_path)


def test_a_line_break_in_a_file_name_is_escaped_in_its_id_alone(tmp_path: Path) -> None:
    for name in ("a\nb.png", "a\\nb.png", "tab\there/c.png"):
        picture(tmp_path / name)
    frame = folder(tmp_path)
    assert frame["source"].tolist() == ["a\nb.png", "a\\nb.png", "tab\there/c.png"]
    assert frame["image_id"].tolist() == ["a\\nb#2", "a\\nb", "tab\\there/c"]
