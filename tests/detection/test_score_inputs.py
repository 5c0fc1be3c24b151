"""What score is given to read: each file once, under a name of its own, listed without being opened."""

import os
from pathlib import Path

import pytest

from mammovae.config import UsageError
from mammovae.data.index import distinct_names
from mammovae.detection.score_inputs import list_files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")


def test_a_file_given_twice_is_one_image(tmp_path: Path) -> None:
    touch(tmp_path / "t" / "a.png", tmp_path / "t" / "b" / "c.png")
    paths = [tmp_path / "t", tmp_path / "t" / "a.png", tmp_path / "t" / "b", tmp_path / "t" / "b" / ".." / "a.png"]
    assert [image.image_id for image in list_files(paths, [])] == ["a", "b/c"]


def test_only_the_suffix_of_an_image_format_is_no_part_of_a_name(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("1.2.840.1", "1.2.840.2.dcm", "b.v2.PNG", "c.2026")))
    assert [image.image_id for image in list_files([tmp_path], [])] == ["1.2.840.1", "1.2.840.2", "b.v2", "c.2026"]


def test_only_files_without_an_image_suffix_are_in_doubt(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("1.2.3", "a.dcm", "notes.txt")))
    doubtful = {image.image_id for image in list_files([tmp_path], []) if not image.is_named_image}
    assert doubtful == {"1.2.3", "notes.txt"}
    assert all(image.is_named_image for image in list_files([tmp_path / "notes.txt"], []))


def test_listing_opens_no_file(tmp_path: Path) -> None:
    touch(tmp_path / "a.dcm", tmp_path / "1.2.3")
    os.mkfifo(tmp_path / "waits.dcm")  # to open it would be to wait for ever
    (tmp_path / "astray.png").symlink_to("nowhere.png")
    problems = {image.image_id: image.problem for image in list_files([tmp_path], []) if image.problem}
    assert set(problems) == {"waits", "astray"}
    assert "it is no regular file" in problems["waits"]


def test_outputs_are_no_inputs(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.png", "scores.csv", "maps/a.png", "b/maps/a.png", "b/scores.csv")))
    outputs = [tmp_path / "scores.csv", tmp_path / "b" / ".." / "maps"]
    assert [image.name for image in list_files([tmp_path], outputs)] == ["a.png", "b/scores.csv", "b/maps/a.png"]


def test_archives_are_counted_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(*(tmp_path / name for name in ("a.png", "b.zip", "c.dcm.gz")))
    assert [image.name for image in list_files([tmp_path], [])] == ["a.png"]
    said = capsys.readouterr().err
    assert f"2 archives (.gz, .zip) in {tmp_path} not looked into: unpack, or name the .zip itself\n" in said


def test_a_file_that_only_calls_itself_a_zip_archive_is_an_image_that_will_fail(tmp_path: Path) -> None:
    touch(tmp_path / "a.zip")
    assert [image.is_named_image for image in list_files([tmp_path / "a.zip"], [])] == [True]


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        list_files([tmp_path / "gone"], [])


@pytest.mark.parametrize(
    ("names", "longer", "expected"),
    [
        (["a", "b"], ["a.x", "b.x"], ["a", "b"]),
        (["a", "a", "b"], ["a.x", "a.y", "b.x"], ["a.x", "a.y", "b"]),
        (["a", "a", "a.x"], ["a.x", "a.y", "a.x.y"], ["a.x", "a.y", "a.x#2"]),
        (["a", "a", "a#2"], ["a", "a", "a#2"], ["a", "a#3", "a#2"]),
        (["a", "a", "a"], ["a", "a", "a"], ["a", "a#2", "a#3"]),
        ([], [], []),
    ],
)
def test_names_are_told_apart_by_longer_forms_and_then_by_numbers(
    names: list[str], longer: list[str], expected: list[str]
) -> None:
    assert distinct_names(names, longer.__getitem__) == expected
