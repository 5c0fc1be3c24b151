"""Several DATA folders read as one: the rows of one folder that holds them all, patients and copies across them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.data.data_folders import breasts, row, small_data, two_folders_and_both, write_data

import mammovae as mv
from mammovae.data import index
from mammovae.data.copies import set_aside
from mammovae.data.joined import JoinedArray


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return two_folders_and_both(tmp_path_factory.mktemp("joined"))


def by_id(data: mv.Data, column: str) -> dict[str, Any]:
    return dict(zip(data.index["image_id"], data.index[column], strict=True))


@pytest.mark.parametrize(
    ("key", "settings", "kind"),
    [("stretch", {"stretch": True}, "dicom"), ("kinds", {"kinds": ["other"]}, "dicom"), ("size", {}, "dicom"), ("healthy", {"healthy": "birads1"}, "vindr")],
)  # fmt: skip
def test_folders_that_do_not_agree_are_refused_by_name_and_key(
    key: str, settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    images, masks = breasts(2, 0, 64 if key == "size" else 32)
    first = small_data(tmp_path / "A", [row("a", "1"), row("b", "2")], [0, 1], kind=kind)
    middle = small_data(tmp_path / "B", [row("c", "3")], [2], kind="folder")
    last = write_data(tmp_path / "C", [row("d", "4"), row("e", "5")], images, masks, settings=settings, kind=kind)
    with pytest.raises(mv.UsageError, match=rf"C was prepared with {key} .*, \S*A with .*: prepare alike"):
        mv.Data.open(first, middle, last)


def test_seed_limit_side_view_and_white_may_differ_and_a_white_that_does_is_said(tmp_path: Path) -> None:
    settings = {"seed": 3, "limit": 5, "side": "L", "view": "CC", "healthy": "birads1"}
    first = small_data(tmp_path / "A", [row("a", "1")], [0], white=4095, stored_as=None)
    second = small_data(tmp_path / "B", [row("b", "2")], [1], white=65535, settings=settings)
    manifest = mv.Data.open(first, second).manifest
    assert manifest["white"] is None and manifest["stored_as"] == "standard"
    assert [manifest["settings"][name] for name in ("seed", "limit", "side", "view")] == [0, None, None, None]
    (note,) = manifest["joined"]
    assert "white of 16-bit files differs" in note and "A 4095" in note and "B 65535" in note


def test_rows_of_one_image_id_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first = small_data(tmp_path / "A", [row("x", "1"), row("y", "2")], [0, 1])
    second = small_data(tmp_path / "B", [row("x", "3"), row("z", "4")], [2, 3])
    data = mv.Data.open(first, second)
    assert data.index["image_id"].tolist() == [f"{first}/x", "y", f"{second}/x", "z"]
    assert index.check(data.index) is data.index


@pytest.mark.parametrize(
    ("ours", "theirs", "together"),
    [
        ("train", "test", "test"),
        ("test", "train", "test"),
        ("calibration", "validation", "calibration"),
        ("train", "validation", "validation"),
        ("test", "calibration", "test"),
        ("train", "unused", "train"),
    ],
)
def test_a_patient_of_two_folders_is_in_the_most_held_out_of_its_splits(
    ours: str, theirs: str, together: str, tmp_path: Path
) -> None:
    first = small_data(tmp_path / "A", [row("a", "1", ours), row("b", "2")], [0, 1])
    second = small_data(tmp_path / "B", [row("c", "1", theirs), row("d", "3")], [2, 3])
    splits = by_id(mv.Data.open(first, second), "split")
    assert splits["a"] == together and splits["c"] == ("unused" if theirs == "unused" else together)
    assert splits["b"] == splits["d"] == "train"


def test_a_study_or_equal_pixels_make_one_patient_under_the_first_id(tmp_path: Path) -> None:
    rows = [row("a", "p1", study_id="s"), row("b", "p2", "test"), row("c", "p3")]
    first = small_data(tmp_path / "A", rows, [0, 1, 2])
    rows = [row("d", "q1", study_id="s"), row("e", "q2"), row("f", "q2", side="R"), row("g", "q3")]
    second = small_data(tmp_path / "B", rows, [3, 1, 4, 5])
    data = mv.Data.open(first, second)
    patients, splits = by_id(data, "patient_id"), by_id(data, "split")
    assert patients == {"a": "p1", "d": "p1", "b": "p2", "e": "p2", "f": "p2", "c": "p3", "g": "q3"}
    assert splits["f"] == "test" and splits["e"] == "unused", "the copy is set aside, the other view is held out"
    assert any("2 patients of several folders" in note for note in data.manifest["joined"])


def test_ids_are_compared_within_a_kind_of_data_set_and_never_where_they_are_file_names(tmp_path: Path) -> None:
    first = small_data(tmp_path / "A", [row("a", "1", "test")], [0], kind="dicom")
    second = small_data(tmp_path / "B", [row("b", "1")], [1], kind="folder")
    data = mv.Data.open(first, second)
    assert data.index["split"].tolist() == ["test", "train"] and data.index["patient_id"].nunique() == 2
    names = [row("001", "001", "test"), row("002", "002")], [row("001", "001"), row("002", "002", "test")]
    places = [
        small_data(tmp_path / name, part, pixels, kind="folder", by_patient=False)
        for name, part, pixels in zip("CD", names, ([2, 3], [4, 5]), strict=True)
    ]
    data = mv.Data.open(*places)
    assert data.index["split"].tolist() == ["test", "train", "train", "test"]
    assert data.index["patient_id"].nunique() == 4 and not data.manifest["by_patient"]


def test_breasts_of_one_patient_id_in_two_folders_are_no_pair(tmp_path: Path) -> None:
    first = small_data(tmp_path / "A", [row("a", "1"), row("b", "2"), row("c", "2", side="R")], [0, 1, 2])
    second = small_data(tmp_path / "B", [row("d", "1", side="R"), row("e", "3"), row("f", "3", side="R")], [3, 4, 5])
    assert mv.Data.open(first, second).others.tolist() == [-1, 2, 1, -1, 5, 4]


def test_of_copies_in_two_folders_one_is_used_and_contradicting_ones_never(tmp_path: Path) -> None:
    rows = [
        row("a", "1"),
        row("b", "2"),
        row("b2", "2", "unused"),
        row("c", "3"),
        row("d", "4", "unused", healthy=None),
    ]
    groups = {"duplicates": [["b", "b2"]], "contradictions": [["d", "e"]]}
    rows.append(row("e", "4", "unused", healthy=None))
    first = small_data(tmp_path / "A", rows, [0, 1, 1, 2, 3, 3], **groups)
    rows = [row("x", "5"), row("y", "6"), row("z", "7", "test", healthy=False), row("w", "8"), row("v", "9")]
    second = small_data(tmp_path / "B", rows, [5, 1, 2, 3, 6])
    data = mv.Data.open(first, second)
    splits, health = by_id(data, "split"), by_id(data, "healthy")
    assert (splits["b"], splits["b2"], splits["y"]) == ("train", "unused", "unused")
    assert {splits[name] for name in "czdew"} == {"unused"} and all(pd.isna(health[name]) for name in "czdew")
    assert (splits["a"], splits["x"], splits["v"]) == ("train", "train", "train")
    (group,) = data.manifest["duplicates"]
    assert group[0] == "b" and set(group) == {"b", "b2", "y"}
    assert sorted(map(sorted, data.manifest["contradictions"])) == [["c", "z"], ["d", "e", "w"]]
    assert set_aside(data.index, data.manifest) == {"b2", "y", "c", "z", "d", "e", "w"}
    assert [len(part) for part in data.parts(mv.TrainSettings(include="unlabelled")).values()] == [4, 0, 0]


def test_copies_within_a_folder_are_prepares_business_and_not_found_anew(tmp_path: Path) -> None:
    first = small_data(tmp_path / "A", [row("a", "1"), row("b", "2")], [0, 0])
    data = mv.Data.open(first, small_data(tmp_path / "B", [row("c", "3")], [1]))
    assert data.index["split"].tolist() == ["train"] * 3 and data.index["patient_id"].nunique() == 3


def test_an_image_that_differs_only_beside_its_middle_row_is_no_copy(tmp_path: Path) -> None:
    images, masks = breasts(1)
    other = images.copy()
    other[0, 3, 3] += 1
    twice, both = np.repeat(images, 2, axis=0), np.repeat(masks, 2, axis=0)
    first = write_data(tmp_path / "A", [row("a", "1"), row("b", "2")], twice, both)
    data = mv.Data.open(first, write_data(tmp_path / "B", [row("c", "3")], other, masks))
    assert not data.manifest["duplicates"] and data.index["split"].tolist() == ["train"] * 3


def test_images_that_failed_are_no_copies_though_both_are_blank(tmp_path: Path) -> None:
    failed = row("a", "1", "unused", status="failed"), row("b", "2", "unused", status="failed")
    blank, (_, masks) = np.zeros((1, 32, 32), np.uint16), breasts(1)
    data = mv.Data.open(*(write_data(tmp_path / one["image_id"], [one], blank, masks) for one in failed))
    assert not data.manifest["duplicates"] and data.index["patient_id"].tolist() == ["1", "2"]


def test_measurements_are_those_that_all_folders_have_though_every_image_of_one_failed(tmp_path: Path) -> None:
    first = small_data(tmp_path / "A", [row("a", "1")], [0])
    second = small_data(tmp_path / "B", [row("b", "2")], [1])
    third = small_data(tmp_path / "C", [row("c", "3", "unused", status="failed")], [2])
    pd.read_parquet(second / "measurements.parquet").assign(more=1.0).to_parquet(second / "measurements.parquet")
    pd.DataFrame(index=range(1)).to_parquet(third / "measurements.parquet")
    table = mv.Data.open(first, second, third).measurements
    assert list(table) == ["grey_median", "grey_high"] and table.notna().all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "rows",
    [
        5,
        -1,
        np.int64(3),
        slice(None),
        slice(2, 7),
        slice(None, None, -2),
        [6, 0, 3, 3],
        np.array([-1, 2]),
        np.array([], int),
        np.arange(9) % 2 == 0,
    ],
    ids=str,
)
def test_a_joined_array_is_indexed_as_the_array_of_all_rows(rows: Any) -> None:
    whole = np.arange(9 * 4, dtype=np.uint16).reshape(9, 2, 2)
    joined = JoinedArray([whole[:4], whole[4:4], whole[4:5], whole[5:]])
    found = joined[rows]
    np.testing.assert_array_equal(found, whole[rows])
    assert isinstance(found, np.ndarray) and found.dtype == whole.dtype
    assert (len(joined), joined.shape, joined.dtype) == (9, (9, 2, 2), np.uint16)


@pytest.mark.parametrize("rows", [9, -10, [0, 9]])
def test_a_row_beyond_a_joined_array_is_an_error(rows: Any) -> None:
    with pytest.raises(IndexError):
        JoinedArray([np.zeros((4, 2)), np.zeros((5, 2))])[rows]


def test_joined_data_are_sent_to_another_process_by_their_paths(folders: tuple[Path, Path, Path]) -> None:
    data = mv.Data.open(*folders[:2])
    sent = pickle.dumps(data)
    assert len(sent) < data.images[:].nbytes / 2
    there = pickle.loads(sent)
    np.testing.assert_array_equal(there.images[30], data.images[30])
    np.testing.assert_array_equal(there.masks[[0, 59]], data.masks[[0, 59]])
    assert isinstance(there.images.parts[1], np.memmap) and there.paths == data.paths
