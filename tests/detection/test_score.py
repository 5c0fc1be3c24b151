"""Scoring many images: the same bytes on any number of workers, after any interruption, whatever one file causes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv
from mammovae.config import InputError
from mammovae.detection import score


@pytest.fixture(scope="module")
def images(trapped_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the trapped tree's DICOM files, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    files = sorted(trapped_raw.rglob("*.dicom"))[:12]
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"image-{number:02}.dcm")
    (folder / "broken.dcm").write_bytes((folder / "image-00.dcm").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def undisturbed(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "scores.csv"
    mv.score(run, images, out=out, workers=1)
    return out.read_bytes()


def test_any_number_of_workers_writes_the_same_bytes(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    table = mv.score(run, images, out=tmp_path / "s.csv", workers=2)["table"]
    assert (tmp_path / "s.csv").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
    failed = table[table["finding"].isna()]
    assert "broken" in set(failed["image_id"]) and failed["reason"].notna().all()


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the count-th prepared file be the last; the list grows with the names of those started."""
    started: list[str] = []
    real = score.prepare_image

    def counted(path: Path, **settings: Any) -> object:
        if len(started) == count:
            raise KeyboardInterrupt
        started.append(path.name)
        return real(path, **settings)

    monkeypatch.setattr(score, "prepare_image", counted)
    return started


def test_an_interrupted_scoring_resumes_and_ends_with_the_same_bytes(
    run: Path, images: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        first = interrupt_after(7, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1)
    journal = tmp_path / ".s.csv.rows.jsonl"
    assert not out.exists() and len(journal.read_text().splitlines()) == 1 + len(first)
    journal.write_text(journal.read_text()[:-20])  # the last line was cut off, too
    with monkeypatch.context() as context:
        second = interrupt_after(100, context)
        mv.score(run, images, out=out, workers=1)
    assert set(first) & set(second) == {first[-1]} and len(first) + len(second) == 14
    assert out.read_bytes() == undisturbed and not journal.exists()


def test_rows_of_another_job_are_not_resumed_from(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        interrupt_after(5, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1)
    with monkeypatch.context() as context:
        started = interrupt_after(100, context)
        mv.score(run, images, out=out, workers=1, maps=tmp_path / "maps")
    assert len(started) == 13


def test_a_review_that_was_interrupted_shows_what_an_undisturbed_one_does(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv.score(run, images, out=tmp_path / "whole" / "s.csv", workers=1, review=tmp_path / "whole.html")
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        interrupt_after(7, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, images, out=out, workers=1, review=tmp_path / "r.html")
    mv.score(run, images, out=out, workers=1, review=tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == (tmp_path / "whole.html").read_text()


def test_a_data_folder_is_scored_in_the_same_parts_after_an_interruption(
    run: Path, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv.score(run, trapped_data, out=tmp_path / "whole.csv")
    real, seen = score._Scorer._score_data, []

    def counted(self: Any, task: Any, data: Any) -> object:
        if seen:
            raise KeyboardInterrupt
        seen.append(task)
        return real(self, task, data)

    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        context.setattr(score._Scorer, "_score_data", counted)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, trapped_data, out=out)
    entries = [json.loads(line) for line in (tmp_path / ".s.csv.rows.jsonl").read_text().splitlines()]
    assert len(entries) == 1 + score.PART
    mv.score(run, trapped_data, out=out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    table = pd.read_csv(out)
    index = mv.Data.open(trapped_data).index
    assert len(table) == (index["status"] != "missing").sum()
    assert np.isfinite(table["finding"]).sum() == (index["status"] == "ok").sum()


def test_two_at_once_on_one_file_are_refused(run: Path, images: Path, tmp_path: Path) -> None:
    with score._locked(tmp_path / "s.csv"), pytest.raises(InputError, match="another mammovae is writing"):
        mv.score(run, images, out=tmp_path / "s.csv", workers=1)


def test_a_broken_link_is_a_row_and_what_was_refused_is_not_tried_again(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "astray.dcm").symlink_to(tmp_path / "nowhere.dcm")
    out = tmp_path / "s.csv"
    with monkeypatch.context() as context:
        first = interrupt_after(6, context)
        with pytest.raises(KeyboardInterrupt):
            mv.score(run, folder, out=out, workers=1, review=tmp_path / "r.html")
    assert {"astray.dcm", "broken.dcm"} <= set(first)
    with monkeypatch.context() as context:
        second = interrupt_after(100, context)
        table = mv.score(run, folder, out=out, workers=1, review=tmp_path / "r.html")["table"]
    assert not {"astray.dcm", "broken.dcm"} & set(second) and len(second) == 12
    reasons = table.set_index("image_id")["reason"]
    assert "there is no such file" in reasons["astray"]


def test_a_run_that_the_workers_do_not_find_is_named(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "run"
    shutil.copytree(run, elsewhere)
    real = score._run_tasks

    def delete_and_run(*arguments: Any, **settings: Any) -> object:
        shutil.rmtree(elsewhere)
        return real(*arguments, **settings)

    monkeypatch.setattr(score, "_run_tasks", delete_and_run)
    with pytest.raises(InputError, match="there is no folder"):
        mv.score(elsewhere, images, out=tmp_path / "s.csv", workers=2)
