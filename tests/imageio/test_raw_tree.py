"""The listing of raw files: regular files alone, nothing that waits, nothing lost without a word."""

import os
import zipfile
from pathlib import Path

import pytest

from mammovae.config import InputError
from mammovae.imageio.raw_tree import RawTree, ZipMember, open_raw, raw_file


def tree_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_files_come_in_a_fixed_order_a_folders_files_before_its_folders(tmp_path: Path) -> None:
    tree_of(tmp_path, "b/2.png", "b/a/1.png", "z.png", "a/3.png", "b/10.png")
    assert list(RawTree.scan(tmp_path).files) == ["z.png", "a/3.png", "b/10.png", "b/2.png", "b/a/1.png"]


def test_hidden_files_and_the_doubles_of_macos_are_no_images(tmp_path: Path) -> None:
    tree_of(tmp_path, ".hidden.png", ".git/a.png", "__MACOSX/._a.png", "a.png", "._a.png")
    assert list(RawTree.scan(tmp_path).files) == ["a.png"]


def test_a_fifo_is_a_problem_and_is_never_opened(tmp_path: Path) -> None:
    tree_of(tmp_path, "a.dcm")
    os.mkfifo(tmp_path / "b.dcm")
    tree = RawTree.scan(tmp_path)
    assert list(tree.files) == ["a.dcm"] and "no regular file" in tree.problems["b.dcm"]
    with pytest.raises(InputError, match="no regular file"):
        open_raw(tmp_path / "b.dcm")


def test_a_broken_link_is_a_problem(tmp_path: Path) -> None:
    tree_of(tmp_path, "a.dcm")
    (tmp_path / "b.dcm").symlink_to(tmp_path / "nowhere")
    assert list(RawTree.scan(tmp_path).problems) == ["b.dcm"]


def test_links_to_folders_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    tree_of(tmp_path, "study/a.png")
    (tmp_path / "study" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "study")
    assert [name.rpartition("/")[2] for name in RawTree.scan(tmp_path).files] == ["a.png"]


def test_a_name_that_is_no_utf8_is_a_problem_and_the_others_are_listed(tmp_path: Path) -> None:
    tree_of(tmp_path, "good.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.png")).write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/J\xe4n")).mkdir()
    tree = RawTree.scan(tmp_path)
    assert list(tree.files) == ["good.png"]
    assert sorted(tree.problems) == ["J\\xe4n", "M\\xfcller.png"]
    assert all("rename it" in reason for reason in tree.problems.values())


def test_an_unreadable_folder_is_a_problem_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree_of(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(path):  # as the system does for any user but root
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree = RawTree.scan(tmp_path)
    assert list(tree.files) == ["b/2.png"] and "Permission denied" in tree.problems["a"]


def test_archives_are_counted_and_not_looked_into(tmp_path: Path) -> None:
    tree_of(tmp_path, "a.dcm", "b.dcm.gz", "c.zip", "d.dcm.zst", "e.ZIP")
    tree = RawTree.scan(tmp_path)
    assert list(tree.files) == ["a.dcm"] and dict(tree.archives) == {".gz": 1, ".zip": 2, ".zst": 1}


@pytest.mark.parametrize("command", ["prepare", "score", "train", "generate"])
def test_folders_that_mammovae_wrote_are_passed_by(tmp_path: Path, command: str) -> None:
    tree_of(tmp_path, "a.png", "OUT/b.png", "OTHER/c.png")
    (tmp_path / "OUT" / "manifest.json").write_text(f'{{"command": "{command}", "versions": {{"mammovae": "1"}}}}')
    (tmp_path / "OTHER" / "manifest.json").write_text('{"command": "train"}')  # of another program
    tree = RawTree.scan(tmp_path)
    assert [name for name in tree.files if name.endswith("png")] == ["a.png", "OTHER/c.png"]
    assert tree.own_folders == ["OUT"]


@pytest.mark.parametrize("content", ['{"versions": 5}', '{"versions": "mammovae"}', "[" * 10**5, "\xff", "5", None])
def test_a_manifest_of_another_program_may_hold_anything(tmp_path: Path, content: str | None) -> None:
    tree_of(tmp_path, "OTHER/a.png")
    if content is None:
        os.mkfifo(tmp_path / "OTHER" / "manifest.json")
    else:
        (tmp_path / "OTHER" / "manifest.json").write_bytes(content.encode("latin-1"))
    assert "OTHER/a.png" in RawTree.scan(tmp_path).files


def test_a_tree_of_phantoms_is_raw_data_wherever_it_lies(tmp_path: Path) -> None:
    tree_of(tmp_path, "RAW/a.png")
    (tmp_path / "RAW" / "manifest.json").write_text('{"command": "phantom", "versions": {"mammovae": "1"}}')
    assert "RAW/a.png" in RawTree.scan(tmp_path).files


def archive_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())
    return path


def test_a_zip_archive_is_a_tree_without_the_folder_that_holds_all(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "set/b/1.png", "set/a.csv", "__MACOSX/set/._a.csv", "set/.hidden")
    tree = RawTree.scan(archive)
    assert list(tree.files) == ["a.csv", "b/1.png"]
    with open_raw(tree.file("b/1.png")) as file:
        assert file.read() == b"set/b/1.png"
    assert raw_file(archive, "a.csv") == ZipMember(archive, "set/a.csv")


def test_a_file_beside_the_folders_of_an_archive_keeps_all_names(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "a/1.png", "b/2.png", "3.png")
    assert list(RawTree.scan(archive).files) == ["3.png", "a/1.png", "b/2.png"]


def test_names_in_an_archive_may_begin_with_the_folder_itself(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "./a/1.png", "./2.png", "./.hidden")
    assert list(RawTree.scan(archive).files) == ["2.png", "a/1.png"]
    assert raw_file(archive, "a/1.png") == ZipMember(archive, "./a/1.png")


def test_an_archive_may_write_its_folders_as_windows_does(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "healthy\\1.png", "finding\\a\\2.png")
    tree = RawTree.scan(archive)
    assert list(tree.files) == ["finding/a/2.png", "healthy/1.png"]
    with open_raw(tree.file("finding/a/2.png")) as file:
        assert file.read()


def test_a_file_that_is_no_whole_archive_is_called_that(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "1.png", "2.png")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(InputError, match="no whole zip archive"):
        RawTree.scan(archive)


def test_an_archive_that_was_replaced_is_listed_anew(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "old/1.png")
    assert list(RawTree.scan(archive).files) == ["1.png"]
    archive_of(tmp_path / "other.zip", "a/2.png", "b/3.png").replace(archive)
    assert list(RawTree.scan(archive).files) == ["a/2.png", "b/3.png"]
    assert raw_file(archive, "a/2.png") == ZipMember(archive, "a/2.png")


def test_a_damaged_member_is_a_sentence(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "set.zip", "a.png", "b.png")
    content = archive.read_bytes()
    place = content.index(b"a.png") + 5
    archive.write_bytes(content[:place] + b"#" + content[place + 1 :])
    with pytest.raises(InputError, match="zip archive"):
        open_raw(raw_file(archive, "a.png"))
    with open_raw(raw_file(archive, "b.png")) as file:
        assert file.read() == b"b.png"


def test_what_is_no_folder_and_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="folder"):
            RawTree.scan(path)


def test_entries_are_found_case_spaces_and_punctuation_aside(tmp_path: Path) -> None:
    tree = RawTree.scan(tree_of(tmp_path, "Finding Annotations.CSV", "Processed_Images/a/1.png"))
    assert tree.find("finding_annotations.csv") == "Finding Annotations.CSV"
    assert tree.find_folder("processed images") == "Processed_Images"
    assert tree.find("other.csv") is None and tree.in_folder("Processed_Images/a") == ["Processed_Images/a/1.png"]


def test_an_empty_and_a_huge_file_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**31)
    for name, words in (("empty", "is empty"), ("huge", "more than a mammogram has")):
        with pytest.raises(InputError, match=words):
            open_raw(tmp_path / name)


def test_folders_that_mammovae_wrote_are_passed_by_in_an_archive_too(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "set.zip", "set/a.png", "set/OUT/b.png", "set/OUTSIDE/c.png")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("set/OUT/manifest.json", '{"command": "prepare", "versions": {"mammovae": "1"}}')
    tree = RawTree.scan(path)
    assert (list(tree.files), tree.own_folders) == (["a.png", "OUTSIDE/c.png"], ["OUT"])


@pytest.mark.parametrize("folder", ["healthy", "Finding"])
def test_a_folder_that_labels_its_images_keeps_its_name_in_an_archive(tmp_path: Path, folder: str) -> None:
    assert list(RawTree.scan(archive_of(tmp_path / "set.zip", f"{folder}/a.png")).files) == [f"{folder}/a.png"]
