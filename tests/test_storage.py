"""Stage folders: resumed by the same settings, refused to others, never half-written."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mammovae import storage
from mammovae.config import InputError, UsageError
from mammovae.storage import (
    MANIFEST,
    StageFolder,
    allocate_array,
    atomic_write,
    first_difference,
    read_json,
    read_manifest,
    update_text,
    write_csv,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_a_text_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    for text in ("first\n", "second: café\n"):
        update_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    before = path.stat().st_ino
    update_text(path, "second: café\n")
    assert path.stat().st_ino == before, "what is written in one step is another file"


def test_a_finished_stage_is_done_for_the_same_call(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with StageFolder(out, "prepare", {"size": 128}, {"root": "raw"}) as stage:
        assert not stage.done
        stage.finish(images=3)
    with StageFolder(out, "prepare", {"size": 128}, {"root": "raw"}) as stage:
        assert stage.done
    assert read_manifest(out, "prepare")["images"] == 3
    assert [entry.name for entry in out.iterdir()] == [MANIFEST]


def test_a_finished_stage_on_a_disk_that_is_now_read_only_is_done_already(small_disk: Path) -> None:
    with StageFolder(small_disk / "out", "prepare", {"size": 128}, {}) as stage:
        stage.finish()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with StageFolder(small_disk / "out", "prepare", {"size": 128}, {}) as stage:
        assert stage.done
    with pytest.raises(UsageError, match="size"), StageFolder(small_disk / "out", "prepare", {"size": 64}, {}):
        pass
    with pytest.raises(OSError, match="Read-only"), StageFolder(small_disk / "new", "prepare", {"size": 64}, {}):
        pass


def test_a_finished_stage_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StageFolder(tmp_path / "out", "prepare", {}, {}) as stage:
        stage.finish()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(storage, "acquire_lock", refuse)
    with StageFolder(tmp_path / "out", "prepare", {}, {}) as stage:
        assert stage.done


def test_a_finished_stage_can_be_reopened_by_the_same_call_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with StageFolder(out, "prepare", {"size": 128}, {}) as stage:
        stage.finish(images=3)
    with pytest.raises(UsageError, match="size"), StageFolder(out, "prepare", {"size": 64}, {}) as stage:
        stage.reopen()
    assert read_manifest(out, "prepare")["images"] == 3
    with pytest.raises(RuntimeError), StageFolder(out, "prepare", {"size": 128}, {}) as stage:
        stage.reopen()
        assert not stage.done
        with pytest.raises(UsageError, match="another"), StageFolder(out, "prepare", {"size": 128}, {}):
            pass
        assert stage.facts()["state"] == "running"
        raise RuntimeError
    with StageFolder(out, "prepare", {"size": 128}, {}) as stage:
        assert not stage.done, "what was reopened and killed must go on"
        stage.finish(images=4)
    assert read_manifest(out, "prepare")["images"] == 4


def test_a_stage_says_done_only_once_its_files_and_then_its_manifest_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", list[tuple[str, str]]()
    sync, sync_file_system = storage._sync, storage.sync_file_system

    def record(name: str, path: Path, original: Callable[[Path], None]) -> None:
        original(path)
        seen.append((name, read_json(out / MANIFEST)["state"]))

    with StageFolder(out, "train", {}, {}) as stage:
        (out / "weights").write_bytes(b"1")
        monkeypatch.setattr(storage, "_sync", lambda path: record(path.suffix or path.name, path, sync))
        monkeypatch.setattr(storage, "sync_file_system", lambda path: record("all", path, sync_file_system))
        stage.finish()
    assert seen == [("all", "running"), (".json", "running"), ("out", "done")]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_folder_of_links_pipes_and_folders_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("")
    (tmp_path / "broken link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sys, "platform", platform)
    storage.sync_file_system(tmp_path)
    storage.sync_file_system(tmp_path / "inner")


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


def test_an_array_is_allocated_in_full(tmp_path: Path) -> None:
    array = allocate_array(tmp_path / "images.npy", np.uint16, (3, 512, 512))
    array[1] = 7
    array.flush()
    status = (tmp_path / "images.npy").stat()
    assert status.st_blocks * 512 >= status.st_size > array.nbytes
    assert np.load(tmp_path / "images.npy").sum() == 7 * 512**2


def test_an_array_for_which_the_disk_has_no_room_is_refused_before_any_work(small_disk: Path) -> None:
    allocate_array(small_disk / "images.npy", np.uint8, (1024, 1024))
    with pytest.raises(
        InputError, match=r"disk needs 1\.6 MB more for its images, and 1\.0 MB are free on its disk: free some or name"
    ):
        allocate_array(small_disk / "masks.npy", np.uint8, (1600, 1000))
    assert [entry.name for entry in small_disk.iterdir()] == ["images.npy"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "are free on its disk"),
        (errno.EDQUOT, "your share of its disk is used up"),
        (errno.EFBIG, "no file that large"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_why_an_array_cannot_be_allocated_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(
        InputError, match=f"needs 0.0 MB more for its images, and .*{words}.*: free some or name another"
    ):
        allocate_array(tmp_path / "images.npy", np.uint8, (10, 10))
    assert not list(tmp_path.iterdir())


def test_where_no_space_can_be_reserved_the_free_space_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    assert allocate_array(tmp_path / "images.npy", np.uint8, (10, 10)).shape == (10, 10)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**9))
    with pytest.raises(InputError, match=r"needs 5\.1 GB more for its images, and 2\.0 GB are free on its disk"):
        allocate_array(tmp_path / "masks.npy", np.uint8, (51, 10**8))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: path.write_text("x" * 4_000_000),
    "array": lambda path: np.save(path.open("wb"), np.zeros(4_000_000, np.uint8)),
    "tensors": lambda path: torch.save({"a": torch.zeros(1_000_000)}, path),
    "parquet": lambda path: pd.DataFrame({"a": np.random.default_rng(0).random(500_000)}).to_parquet(path),
    "archive": lambda path: np.savez(path.open("wb"), a=np.zeros(4_000_000, np.uint8)),
    "table": lambda path: pd.DataFrame({"a": np.arange(800_000)}).to_csv(path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fills_up_names_the_file_whatever_writes_it(small_disk: Path, writer: str) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: .*result") as error,
        atomic_write(small_disk / "result"),
    ):
        partial = small_disk / f".result.{os.getpid()}.partial"
        WRITERS[writer](partial)
    assert error.value.errno == errno.ENOSPC
    assert not list(small_disk.iterdir())


HARMFUL = ["=1+1", "+49", "-1.5", "@sum", "\t=1", "\r=1", "'=1", "''-", '=HYPERLINK("http://x")']
HARMLESS = ["", "a=b", "L_CC.png", "'s", "1.2.840", "ä, b", 'quoted "word"', " =1"]


def test_no_cell_of_text_is_a_formula_to_a_spreadsheet_and_each_can_be_read_back(tmp_path: Path) -> None:
    texts = HARMFUL + HARMLESS
    frame = pd.DataFrame({"image_id": texts, "score": -np.arange(len(texts)) / 2})
    write_csv(frame, tmp_path / "scores.csv")
    cells = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False)
    assert all(cell[:1] not in ("=", "+", "-", "@", "\t", "\r") for cell in cells["image_id"])
    assert list(cells["score"]) == list(frame["score"]), "numbers stay numbers"
    read = [
        cell[cell.startswith("'") and text in HARMFUL :] for cell, text in zip(cells["image_id"], texts, strict=True)
    ]
    assert read == [text.replace("\t", "\\t").replace("\r", "\\r") for text in texts]


def test_control_characters_are_written_in_words(tmp_path: Path) -> None:
    write_csv(
        pd.DataFrame({"reason": ["two\nlines", "\x1b[2Jgone", "\x00", "byte \udcff", "\u2028", "é"]}, dtype=object),
        tmp_path / "t.csv",
    )
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["reason", "two\\nlines", "\\x1b[2Jgone", "\\x00", "byte \\udcff", "\\u2028", "é"]


def test_a_table_without_harm_in_it_is_written_as_pandas_does(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None, "c"],
            "string": pd.array(["a", pd.NA, "b"], "string"),
            "category": pd.Categorical(["x", None, "x"]),
            "mixed": pd.Series([1, None, "two"], dtype=object),
            "whole": pd.Series([1, None, 3], dtype=object),
            "truth": pd.array([True, None, False], "boolean"),
            "lists": [["a"], [], ["b", "c"]],
            "number": [1.23456789, np.nan, -1e-9],
            "count": pd.array([1, None, -3], "Int64"),
        }
    )
    for part in (frame, frame.head(0)):
        write_csv(part, tmp_path / "ours.csv", float_format="%.6g")
        part.to_csv(tmp_path / "theirs.csv", index=False, float_format="%.6g")
        assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()
