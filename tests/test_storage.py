"""Stage folders: resumed by the same settings, refused to others, never half-written."""

import json
from pathlib import Path

import pytest

from mammovae.config import InputError, UsageError
from mammovae.storage import MANIFEST, Journal, StageFolder, atomic_write, first_difference, read_manifest, write_json


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_a_finished_stage_is_done_for_the_same_call(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with StageFolder(out, "prepare", {"size": 128}, {"root": "raw"}) as stage:
        assert not stage.done
        stage.finish(images=3)
    with StageFolder(out, "prepare", {"size": 128}, {"root": "raw"}) as stage:
        assert stage.done
    assert read_manifest(out, "prepare")["images"] == 3
    assert [entry.name for entry in out.iterdir()] == [MANIFEST]


def test_an_interrupted_stage_is_unfinished_and_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), StageFolder(out, "train", {"epochs": 3}, {}):
        raise RuntimeError
    with pytest.raises(InputError, match="unfinished: run the same mammovae train again"):
        read_manifest(out, "train")
    with StageFolder(out, "train", {"epochs": 3}, {}) as stage:
        assert not stage.done
        stage.finish()
    assert read_manifest(out, "train")["state"] == "done"


def test_other_settings_are_refused_by_the_key_that_differs(tmp_path: Path) -> None:
    with StageFolder(tmp_path / "out", "train", {"vae": {"latent": 4}}, {}) as stage:
        stage.finish()
    with (
        pytest.raises(UsageError, match=r"begun with another vae\.latent \(4, now 8\): name a new --out"),
        StageFolder(tmp_path / "out", "train", {"vae": {"latent": 8}}, {}),
    ):
        pass


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files"), StageFolder(tmp_path, "train", {}, {}):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with (
        StageFolder(tmp_path / "out", "train", {}, {}),
        pytest.raises(UsageError, match="another mammovae is writing"),
        StageFolder(tmp_path / "out", "train", {}, {}),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is not a RUN folder: it has no manifest.json"),
        ("{", "cannot read"),
        (json.dumps({"command": "prepare", "state": "done"}), "was written by mammovae prepare: name a RUN folder"),
    ],
)
def test_a_wrong_folder_is_named_for_what_it_is(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_manifest(tmp_path, "train")


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"auroc": float("nan"), "n": 3})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": None, "n": 3}


def test_the_first_difference_is_found_in_nested_values() -> None:
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == ("a.b", 1, 2)
    assert first_difference({}, {"new": 1}) == ("new", None, 1)


def test_a_journal_resumes_after_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(path, "work") as journal:
        for number in range(3):
            journal.add({"row": number, "words": "ä" * 40_000})  # a line is longer than what is read at once
    path.write_bytes(path.read_bytes()[:-5])
    with Journal(path, "work") as journal:
        assert [entry["row"] for entry in journal.entries()] == [0, 1]
        journal.add({"row": 7})
        assert [entry["row"] for entry in journal.entries()] == [0, 1, 7]
        journal.delete()
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b'{"journal of": "wo', b'{"journal of": "other"}\n{"row": 1}\n', b"\xff\n"])
def test_a_journal_of_another_job_starts_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with Journal(path, "work") as journal:
        assert list(journal.entries()) == []
