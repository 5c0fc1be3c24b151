"""The one table: types that survive the disk, and rules that hold."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammovae.config import InputError
from mammovae.data import index
from mammovae.imageio.raw_tree import RawTree


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    lesion = index.finding("Mass", birads=4, box=(1, 2, 3.5, 4))
    rows = [{"image_id": "a", "side": "L", "healthy": False, "findings": [lesion]}, {"image_id": "b"}]
    frame = index.table(rows)
    index.write(frame, tmp_path / "index.parquet")
    again = index.read(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(frame, again)
    assert again["findings"][0] == [lesion]
    assert again["healthy"].isna().tolist() == [False, True]


def test_a_listed_file_that_is_not_there_is_missing_not_failed(tmp_path: Path) -> None:
    (tmp_path / "here.png").touch()
    tree = RawTree.scan(tmp_path)
    rows = [{"image_id": "a", "source": "here.png"}, {"image_id": "b", "source": "gone.png"}]
    assert index.table(rows, tree)["status"].tolist() == ["ok", "missing"]


def test_where_no_listed_file_is_there_both_sides_are_shown(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    rows = [{"image_id": "a", "source": "images/a.dcm"}, {"image_id": "b", "source": "images/b.dcm"}]
    with pytest.raises(
        InputError, match=r"none of the 2 images .* looked for images/a.dcm, but there is no image at all"
    ):
        index.table(rows, RawTree.scan(tmp_path))
    (tmp_path / "pictures" / "a.PNG").touch()
    with pytest.raises(InputError, match=r"looked for images/a.dcm, but what lies there is pictures/a.PNG"):
        index.table(rows, RawTree.scan(tmp_path))


def test_what_the_tree_could_not_list_is_a_row_that_failed_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    tree = RawTree.scan(tmp_path)
    tree.problems |= {"b.png": "cannot read b.png", "locked": "cannot read the folder", "a": "cannot read the folder a"}
    rows = [{"image_id": name, "source": f"{name}.png"} for name in ("a", "b", "locked/c", "locked/d")]
    frame = index.table(rows, tree).set_index("image_id")
    assert frame["status"].tolist() == ["ok", "failed", "failed", "failed", "failed"]
    assert frame.index.tolist() == ["a", "b", "locked/c", "locked/d", "a#2"]
    assert (
        frame.loc["locked/d", "reason"] == "cannot read the folder" and frame.loc["b", "reason"] == "cannot read b.png"
    )


def test_control_characters_are_escaped_in_ids_and_reasons_and_stay_in_sources() -> None:
    rows = [{"image_id": "a\nb", "source": "a\nb.png", "reason": "x\ty"}, {"image_id": "\x1b[2J\u202e"}]
    frame = index.table(rows)
    assert frame["image_id"].tolist() == ["a\\nb", "\\x1b[2J\\u202e"]
    assert (frame["source"][0], frame["reason"][0]) == ("a\nb.png", "x\\ty")


def test_text_that_no_code_explains_is_escaped_and_refuses_nothing() -> None:
    assert index.table([{"image_id": "a", "vendor": "M\udcfcller"}])["vendor"].tolist() == ["M\\udcfcller"]


def test_a_limit_counts_files_that_are_there() -> None:
    rows = [{"image_id": str(n), "status": "missing" if n % 3 else "ok"} for n in range(12)]
    frame = index.table(rows)
    assert index.limit_present(frame, 2)["image_id"].tolist() == ["0", "1", "2", "3"]
    for count in (None, 4, 99):
        assert len(index.limit_present(frame, count)) == 12


def test_what_failed_before_its_side_was_known_matches_any_side() -> None:
    rows = [
        {"image_id": "a", "side": "L", "view": "CC"},
        {"image_id": "b", "side": "R", "view": "CC"},
        {"image_id": "c"},
        {"image_id": "d", "status": "failed"},
        {"image_id": "e", "side": "R", "status": "failed"},
        {"image_id": "f", "side": "L", "view": "CC", "status": "missing"},
    ]
    frame = index.table(rows)
    assert index.matching(frame, side="L")["image_id"].tolist() == ["a", "d", "f"]
    assert index.matching(frame, side="R", view="CC")["image_id"].tolist() == ["b", "d", "e"]
    assert len(index.matching(frame)) == 6


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"image_id": "a"}, {"image_id": "a"}], "'a' stands in two rows"),
        ([{"image_id": None}], "row 0 of the index has no image_id"),
        ([{"image_id": "a", "side": "left"}], "side 'left': it must be one of L, R"),
        ([{"image_id": "a", "age": "old"}], "does not fit the index's columns"),
    ],
)
def test_a_breach_is_named_with_its_row(rows: list[dict], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        index.table(rows)


def test_an_index_with_a_patient_in_two_splits_is_not_written(tmp_path: Path) -> None:
    frame = index.table([{"image_id": name, "patient_id": "p", "split": name} for name in ("train", "test")])
    with pytest.raises(InputError, match="patient 'p' stands in two splits"):
        index.write(frame, tmp_path / "index.parquet")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.parquet").write_text("nonsense")
    with pytest.raises(InputError, match="cannot read the index"):
        index.read(tmp_path / "index.parquet")


def test_the_other_breast_is_of_the_same_patient_and_view_and_ambiguous_ones_are_none() -> None:
    rows = [
        ("a", "L", "MLO"),
        ("a", "R", "MLO"),
        ("a", "R", "CC"),  # no left CC
        ("b", "L", "CC"),
        ("b", "R", "CC"),
        ("b", "R", "CC"),  # a second exposure: which one is meant?
        (None, "L", "MLO"),
        (None, "R", "MLO"),
        ("c", "L", None),
        ("c", "R", None),
    ]
    frame = pd.DataFrame(rows, columns=["patient_id", "side", "view"])
    everything = np.ones(len(frame), bool)
    assert index.other_breasts(frame, everything).tolist() == [1, 0, -1, -1, 3, 3, -1, -1, -1, -1]
    failed = everything.copy()
    failed[5] = False
    assert index.other_breasts(frame, failed).tolist() == [1, 0, -1, 4, 3, -1, -1, -1, -1, -1]
    studies = frame.assign(study_id=pd.Series(["s1", "s2", "s2", "s3", "s3", "s4", None, None, "s5", "s5"]))
    assert index.other_breasts(studies, everything).tolist() == [-1, -1, -1, 4, 3, -1, -1, -1, -1, -1]
