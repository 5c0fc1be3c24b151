"""What every source promises, whatever data it reads. A new source needs nothing here but an example tree."""

import os
import shutil
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from tests.data.example_trees import TREES, headers_of, listed

from mammovae.config import InputError, SourceKind
from mammovae.data import index
from mammovae.data.sources import SOURCES
from mammovae.imageio.raw_tree import RawTree

KINDS = pytest.mark.parametrize("kind", SOURCES)


def example(kind: str, root: Path) -> pd.DataFrame:
    """The rows of an example tree of a kind, which is written first."""
    return listed(kind, TREES[kind](root))


def test_the_command_line_offers_every_source_and_the_tests_know_an_example_of_each() -> None:
    assert set(get_args(SourceKind)) == set(SOURCES) == set(TREES)


@KINDS
def test_a_source_says_what_it_reads_and_its_rules_and_shapes_are_known(kind: str) -> None:
    source = SOURCES[kind]
    assert source.reads and source.reads[-1] != "."
    assert source.finding_shape in ("box", "round")
    for sentences in source.healthy_rules.values():
        assert all(sentence.endswith(".") for sentence in sentences)


@KINDS
def test_the_table_is_an_index_with_unique_ids_and_known_patients_or_none(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path)
    assert list(frame.columns) == index.COLUMNS and len(frame) >= 2
    pd.testing.assert_frame_equal(index.check(frame), frame)
    assert frame["image_id"].is_unique and frame["image_id"].notna().all()
    assert (frame["patient_id"].dropna().str.len() > 0).all()
    assert frame.groupby("image_id")["patient_id"].nunique().le(1).all()


@KINDS
def test_health_is_true_false_or_null_and_false_where_a_finding_is_listed(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path)
    assert frame["healthy"].dtype == pd.BooleanDtype()
    has_findings = frame["findings"].str.len() > 0
    assert (frame.loc[has_findings, "healthy"] == False).all()  # noqa: E712 - nullable column
    for finding in frame["findings"].explode().dropna():
        corners = [finding[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        assert None not in corners or corners == [None] * 4
        assert None in corners or (0 <= corners[0] < corners[2] and 0 <= corners[1] < corners[3])


@KINDS
def test_a_file_that_is_listed_and_absent_is_a_row_with_its_reason(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path)
    present = [source is not None and (tmp_path / source).is_file() for source in frame["source"]]
    assert (frame["status"] == "ok").tolist() == present
    absent = frame[frame["status"] != "ok"]
    assert (absent["status"] == "missing").all() and (absent["reason"] == index.ABSENT).all()
    if kind != "dicom":  # whose example has no list
        assert len(absent)


@KINDS
def test_sources_are_relative_to_the_root_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    pd.testing.assert_frame_equal(listed(kind, tmp_path / "there"), frame)


@KINDS
def test_a_zip_archive_of_the_tree_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path / "tree")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "tree")
    pd.testing.assert_frame_equal(listed(kind, tmp_path / "packed.zip"), frame)


@KINDS
def test_a_name_that_is_no_utf_8_is_a_row_that_failed_beside_the_others(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.dcm")).touch()
    more = listed(kind, tmp_path)
    pd.testing.assert_frame_equal(more.head(len(frame)), frame)
    assert more["status"].iloc[len(frame) :].tolist() == ["failed"]
    assert more["source"].iloc[-1] == "caf\\xe9.dcm" and "rename it" in more["reason"].iloc[-1]


@KINDS
def test_no_image_is_opened_by_the_listing(kind: str, tmp_path: Path) -> None:
    TREES[kind](tmp_path)
    tree, source = RawTree.scan(tmp_path), SOURCES[kind]
    headers = headers_of(kind, tree)
    for name in tree.files:
        if not name.lower().endswith((".csv", ".txt")):
            (tmp_path / name).unlink()
    source.list_images(tree, headers)


@KINDS
def test_a_header_that_could_not_be_read_is_a_row_that_failed_with_its_sentence(kind: str, tmp_path: Path) -> None:
    TREES[kind](tmp_path)
    tree, source = RawTree.scan(tmp_path), SOURCES[kind]
    headers = headers_of(kind, tree)
    chosen = next(
        (name for name, header in headers.items() if header and name.count(".") and "report" not in name), None
    )
    if chosen is None:  # whose tables say what is needed
        return
    frame = source.list_images(tree, headers | {chosen: {"unreadable": "cannot read it: it is damaged"}})
    (row,) = frame[frame["source"] == chosen].to_dict("records")
    assert (row["status"], row["reason"]) == ("failed", "cannot read it: it is damaged")
    assert chosen in index.matching(frame, side="L", view="CC")["source"].tolist() or not pd.isna(row["side"])


@KINDS
@pytest.mark.parametrize("place", ["nowhere", "file", "empty"])
def test_what_is_not_the_data_set_is_refused_in_one_sentence_that_names_it(
    kind: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        listed(kind, tmp_path / place)
    assert "\n" not in str(error.value) and str(tmp_path / place) in str(error.value)


@KINDS
def test_every_healthy_rule_gives_the_same_rows_but_for_health(kind: str, tmp_path: Path) -> None:
    frame = example(kind, tmp_path).drop(columns="healthy")
    for rule in SOURCES[kind].healthy_rules:
        other = listed(kind, tmp_path, healthy=rule).drop(columns="healthy")
        pd.testing.assert_frame_equal(other, frame)
