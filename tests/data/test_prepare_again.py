"""The second run, and the whole set at once: resumed, refused, retried; white level, kinds, zip, export."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.data.example_trees import dicom_file

import mammovae as mv
from mammovae.data import listing
from mammovae.data.listing import HEADERS, CompactHeaders, needed_headers, scan
from mammovae.data.prepare_image import HeadersTask, do_task
from mammovae.parallel import pool

pytestmark = pytest.mark.slow

SMALL = mv.PrepareSettings(size=32)


def breast(seed: int = 0, rows: int = 96, columns: int = 72) -> np.ndarray:
    """A half ellipse at the left edge with soft texture: float (rows, columns), 0..1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    inside = ((y - rows / 2) / (0.4 * rows)) ** 2 + (x / (0.7 * columns)) ** 2 < 1
    grey = 0.4 + 0.2 * np.sin(y / 9 + seed) * np.cos(x / 7) + rng.normal(0, 0.01, (rows, columns))
    return np.where(inside, grey, 0.0).clip(0, 1)


def film(path: Path, seed: int = 0, white: int = 65535) -> Path:
    """Write a 16-bit PNG whose values were counted up to white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(breast(seed) * white).astype(np.uint16)).save(path)
    return path


def mammogram(path: Path, seed: int = 0, **attributes: Any) -> Path:
    stored = np.rint(breast(seed) * 4095).astype(np.uint16)
    plain: dict[str, Any] = {"Rows": stored.shape[0], "Columns": stored.shape[1], "BitsAllocated": 16}
    plain |= {"BitsStored": 12, "HighBit": 11, "PixelData": stored.tobytes(), "ImagerPixelSpacing": [0.1, 0.1]}
    dicom_file(path, **(plain | attributes))
    return path


def numbered(raw: Path, number: int, seed: int | None = None, **attributes: Any) -> Path:
    """Write NUMBER.dcm, whose ids are made from its number."""
    ids = {"SOPInstanceUID": f"1.2.{number}", "PatientID": f"p{number}", "ImageLaterality": "L"}
    return mammogram(raw / f"{number}.dcm", number if seed is None else seed, **(ids | attributes))


def prepare(kind: Any, root: Path, out: Path, **options: Any) -> mv.Result:
    settings = options.pop("settings", SMALL)
    return mv.prepare(kind, root, out=out, settings=settings, workers=2, **options)


def rows_of(out: Path) -> pd.DataFrame:
    return mv.Data.open(out).index.set_index("source", drop=False)


def test_done_is_done_already_and_reads_no_header_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        mammogram(tmp_path / "raw" / f"{seed}.dcm", seed)
    first = prepare("dicom", tmp_path / "raw", tmp_path / "data")
    asked: list[int] = []
    monkeypatch.setattr(listing, "_headers_of", lambda root, sources, run: asked.append(len(sources)) or iter(()))
    again = prepare("dicom", tmp_path / "raw", tmp_path / "data")
    assert asked == [0] and again.facts == first.facts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: numbered(raw, 1, PatientID="other"), ("1.dcm", "patient_id", "other")),
        (lambda raw: numbered(raw, 1, ImageLaterality="R"), ("1.dcm", "side")),
        (lambda raw: numbered(raw, 1, seed=5), ("1.dcm", "changed")),
        (lambda raw: mammogram(raw / "9.dcm", 9), ("9.dcm is new",)),
        (lambda raw: (raw / "2.dcm").unlink(), ("2.dcm is gone",)),
    ],
)
def test_a_finished_folder_is_not_passed_off_for_other_files(tmp_path: Path, change: Any, words: tuple) -> None:
    raw = tmp_path / "raw"
    for seed in range(3):
        numbered(raw, seed)
    prepare("dicom", raw, tmp_path / "data")
    change(raw)
    with pytest.raises(mv.UsageError) as caught:
        prepare("dicom", raw, tmp_path / "data")
    assert all(word in str(caught.value) for word in (*words, "name a new --out")), caught.value


def test_a_file_that_is_no_image_may_come_and_go(tmp_path: Path) -> None:
    mammogram(tmp_path / "raw" / "1.dcm")
    prepare("dicom", tmp_path / "raw", tmp_path / "data")
    (tmp_path / "raw" / "notes.txt").write_text("seen")
    assert prepare("dicom", tmp_path / "raw", tmp_path / "data")["counts"]["ok"] == 1


def test_a_file_that_failed_is_retried_when_asked_for_and_the_others_stay(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "data"
    for seed in range(3):
        mammogram(raw / f"{seed}.dcm", seed)
    whole = (raw / "1.dcm").read_bytes()
    (raw / "1.dcm").write_bytes(whole[:600])
    assert prepare("dicom", raw, out)["counts"]["failed"] == 1
    (raw / "1.dcm").write_bytes(whole)
    with pytest.raises(mv.UsageError, match=r"1\.dcm"):
        prepare("dicom", raw, out)
    before = mv.Data.open(out).images[0].copy()
    assert prepare("dicom", raw, out, retry=True)["counts"]["failed"] == 0
    data = mv.Data.open(out)
    assert (data.images[0] == before).all() and data.images[1].any()
    fresh = prepare("dicom", raw, tmp_path / "fresh")
    pd.testing.assert_frame_equal(data.index, mv.Data.open(fresh.path).index)


def test_files_that_a_csv_lists_are_retried_once_they_are_there(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "data"
    for seed in range(3):
        film(raw / f"{seed}.png", seed)
    (raw / "index.csv").write_text("source,healthy\n" + "".join(f"{seed}.png,1\n" for seed in range(3)))
    (raw / "0.png").rename(tmp_path / "later.png")
    (raw / "note.csv").write_text("a,b\n")
    assert prepare("folder", raw, out)["counts"]["missing"] == 1
    (tmp_path / "later.png").rename(raw / "0.png")
    again = prepare("folder", raw, out, retry=True)
    assert again["counts"]["ok"] == 3 and "note.csv" in str(again)
    data, fresh = mv.Data.open(out), mv.Data.open(prepare("folder", raw, tmp_path / "fresh").path)
    order = [data.index["source"].tolist().index(source) for source in fresh.index["source"]]
    assert (data.images[order] == fresh.images).all() and order != [0, 1, 2]
    assert prepare("folder", raw, out).facts == again.facts


def test_retry_refuses_changes_to_what_was_good(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "data"
    for seed in range(2):
        mammogram(raw / f"{seed}.dcm", seed)
    (raw / "2.dcm").write_bytes(b"\0" * 128 + b"DICM")
    prepare("dicom", raw, out)
    mammogram(raw / "0.dcm", 7)
    with pytest.raises(mv.UsageError, match=r"0\.dcm"):
        prepare("dicom", raw, out, retry=True)
    assert mv.Data.open(out).manifest["counts"]["ok"] == 2, "a refusal leaves what was finished"


def test_a_file_replaced_between_kill_and_resume_is_read_again(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "data"
    for seed in range(40):
        film(raw / f"{seed:02}.png", seed)
    command = [sys.executable, "-m", "mammovae", "prepare", "folder", str(raw), "--out", str(out), "--size", "32"]
    process = subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.DEVNULL, start_new_session=True)
    journal, end = out / ".rows.jsonl", time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b'"row"') >= 3):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lines = map(json.loads, journal.read_text().splitlines()[:-1])
    done = next(line["row"] for line in lines if "row" in line)
    film(raw / f"{done:02}.png", 99)
    prepare("folder", raw, out)
    prepare("folder", raw, tmp_path / "fresh")
    assert (mv.Data.open(out).images[:] == mv.Data.open(tmp_path / "fresh").images[:]).all()


def test_headers_are_read_once_however_often_the_listing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    for seed in range(5):
        mammogram(raw / f"{seed}.dcm", seed)
    asked: list[list[str]] = []
    headers_of = listing._headers_of

    def count(root, sources, run):
        asked.append(list(sources))
        return headers_of(root, sources, run)

    monkeypatch.setattr(listing, "_headers_of", count)
    monkeypatch.setattr(listing, "_FILES_PER_TASK", 2)
    with pool.open_pool(partial(do_task, size=32, stretch=False), workers=1) as run:
        needed_headers("dicom", scan(raw), out, run)
    lines = (out / HEADERS).read_bytes().splitlines(keepends=True)
    kept = next(n for n in range(len(lines)) if sum(b'"source"' in line for line in lines[:n]) == 3)
    (out / HEADERS).write_bytes(b"".join(lines[:kept]) + lines[kept][:9])  # three, and one that the kill cut off
    with pool.open_pool(partial(do_task, size=32, stretch=False), workers=1) as run:
        again = needed_headers("dicom", scan(raw), out, run)
    assert len(asked[0]) == 5 and len(asked[1]) == 2 and len(again) == 5


def test_headers_are_kept_when_the_workers_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        numbered(tmp_path / "raw", seed)
    headers_of = listing._headers_of

    def lose(root, sources, run):
        yield next(iter(headers_of(root, sources, run)))
        raise mv.InputError("the cluster was lost, and the same command resumes")

    monkeypatch.setattr(listing, "_headers_of", lose)
    with pytest.raises(mv.InputError, match="resumes"):
        prepare("dicom", tmp_path / "raw", tmp_path / "data")
    assert (tmp_path / "data" / HEADERS).read_bytes().count(b'"source"') == 1
    monkeypatch.setattr(listing, "_headers_of", headers_of)
    assert prepare("dicom", tmp_path / "raw", tmp_path / "data")["counts"]["ok"] == 3


def test_a_finished_folder_that_cannot_be_written_names_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "data"
    for seed in range(2):
        numbered(raw, seed)
    first = prepare("dicom", raw, out)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as of a disk that is read-only
    assert prepare("dicom", raw, out).facts == first.facts
    numbered(raw, 1, PatientID="other")
    with pytest.raises(mv.UsageError, match=r"1\.dcm: patient_id"):
        prepare("dicom", raw, out)
    (out / HEADERS).unlink()
    with pytest.raises(mv.UsageError, match=r"1\.dcm: patient_id"):
        prepare("dicom", raw, out)


def test_a_header_that_crashes_its_reader_costs_no_other(tmp_path: Path) -> None:
    sources = [f"{number}" for number in range(5)]
    with pool.open_pool(read_headers_of_a_crashing_tree, workers=2) as run:
        headers = dict(listing._headers_of(tmp_path, sources, run))
    assert headers["2"] is not None and "crashed" in headers["2"]["unreadable"]
    assert [headers[name] for name in ("0", "1", "3", "4")] == [{"rows": 1}] * 4


def read_headers_of_a_crashing_tree(task: HeadersTask) -> list[dict]:
    if "2" in task.sources:
        os.abort()
    return [{"rows": 1} for _ in task.sources]


def test_headers_are_held_in_little_memory_and_given_back_whole() -> None:
    headers = CompactHeaders()
    headers.add("a", {"patient_id": "1", "side": "L", "age": None, "rows": 3})
    headers.add("b", None)
    assert headers["a"] == {"patient_id": "1", "side": "L", "rows": 3} and headers["b"] is None
    assert list(headers) == ["a", "b"]


def test_white_is_the_sets_smallest_that_holds_every_value_and_the_same_for_all(tmp_path: Path) -> None:
    for seed in range(6):
        film(tmp_path / "12" / f"{seed}.png", seed, white=4095)
        film(tmp_path / "16" / f"{seed}.png", seed)
    narrow = prepare("folder", tmp_path / "12", tmp_path / "data12")
    wide = prepare("folder", tmp_path / "16", tmp_path / "data16")
    assert (narrow["white"], wide["white"]) == (4095, 65535)
    images, wanted = (mv.Data.open(result.path).images[:].astype(int) for result in (narrow, wide))
    assert np.abs(images - wanted).max() <= 32 and images.max() > 30000
    assert rows_of(narrow.path)["reason"].str.contains("4095").all()
    assert narrow["counts"]["warned"] == 0  # what stands on all would hide the others


def test_one_bright_file_among_many_decides_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mammovae.data.prepared_rows._SAMPLE", 1)
    for seed in range(6):
        film(tmp_path / "raw" / f"{seed}.png", seed, white=4095 if seed < 5 else 16383)
    result = prepare("folder", tmp_path / "raw", tmp_path / "data")
    assert result["white"] == 16383
    peaks = mv.Data.open(result.path).images[:].max(axis=(1, 2))
    assert (peaks[:5] < 17000).all() and peaks[5] > 25000


def test_white_may_be_given_and_what_exceeds_it_fails_in_words(tmp_path: Path) -> None:
    for seed in range(3):
        film(tmp_path / "raw" / f"{seed}.png", seed, white=4095 if seed < 2 else 16383)
    settings = mv.PrepareSettings(size=32, white=4095)
    result = prepare("folder", tmp_path / "raw", tmp_path / "data", settings=settings)
    frame = rows_of(result.path)
    assert frame["status"].tolist() == ["ok", "ok", "failed"] and result["white"] == 4095
    assert "--white" in frame["reason"]["2.png"]


def test_a_set_without_such_files_has_no_white(tmp_path: Path) -> None:
    mammogram(tmp_path / "raw" / "1.dcm")
    assert prepare("dicom", tmp_path / "raw", tmp_path / "data")["white"] is None


def test_only_the_kinds_asked_for_train_and_the_others_are_rows(tmp_path: Path) -> None:
    for seed in range(12):
        factor = 1.8 if seed == 3 else 1.0
        mammogram(tmp_path / "healthy" / f"{seed}.dcm", seed, EstimatedRadiographicMagnificationFactor=factor)
    frame = rows_of(prepare("dicom", tmp_path, tmp_path / "data").path)
    odd = frame.loc["healthy/3.dcm"]
    assert (odd["kind"], odd["split"], odd["status"]) == ("magnified", "unused", "ok")
    assert (frame.drop("healthy/3.dcm")["kind"] == "mammogram").all()
    settings = mv.PrepareSettings(size=32, kinds=("mammogram", "magnified"))
    asked = rows_of(prepare("dicom", tmp_path, tmp_path / "asked", settings=settings).path)
    assert asked.loc["healthy/3.dcm", "split"] != "unused"


def test_a_zip_archive_is_prepared_in_place_like_its_folder(tmp_path: Path) -> None:
    raw = mv.phantom(out=tmp_path / "raw", patients=4, size=64, workers=1).path
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(raw.rglob("*")):
            file.write(path, Path("vindr-mammo") / path.relative_to(raw))
    zipped, plain = (prepare("vindr", root, tmp_path / f"data-{root.stem}") for root in (archive, raw))
    assert zipped["phantoms"] and plain["phantoms"]
    pd.testing.assert_frame_equal(mv.Data.open(zipped.path).index, mv.Data.open(plain.path).index)
    assert (mv.Data.open(zipped.path).images[:] == mv.Data.open(plain.path).images[:]).all()


@pytest.mark.parametrize(("form", "dtype"), [("png", np.uint16), ("npy", np.uint16)])
def test_images_are_exported_with_their_index(tmp_path: Path, form: str, dtype: type) -> None:
    raw = mv.phantom(out=tmp_path / "raw", patients=4, size=64, finding_share=1.0, workers=1).path
    result = prepare("vindr", raw, tmp_path / "data", export=form)
    data, folder = mv.Data.open(tmp_path / "data"), tmp_path / "data" / f"export-{form}"
    table = pd.read_csv(folder / "index.csv")
    assert str(folder) in str(result) and len(table) == 16
    read = np.load if form == "npy" else lambda path: np.array(Image.open(path))
    for row, (_, line) in enumerate(table.iterrows()):
        image, mask = read(folder / "images" / line["file"]), read(folder / "masks" / line["file"])
        assert image.dtype == dtype and (image == data.images[row]).all()
        assert ((mask > 0) == (data.masks[row] > 0)).all()
    boxes = [finding for cell in table["findings"] for finding in json.loads(cell) if finding["xmin"] is not None]
    assert boxes and all(-1 <= box["xmin"] < box["xmax"] <= 33 for box in boxes)


def test_what_changed_since_is_exported_anew(tmp_path: Path) -> None:
    for seed in range(3):
        film(tmp_path / "raw" / f"{seed}.png", seed, white=1023)
    whole = film(tmp_path / "bright.png", 3, white=4095).read_bytes()
    (tmp_path / "raw" / "3.png").write_bytes(whole[:300])
    prepare("folder", tmp_path / "raw", tmp_path / "data", export="npy")
    (tmp_path / "raw" / "3.png").write_bytes(whole)
    prepare("folder", tmp_path / "raw", tmp_path / "data", retry=True, export="npy")  # white is another now
    data, folder = mv.Data.open(tmp_path / "data"), tmp_path / "data" / "export-npy" / "images"
    assert data.manifest["white"] == 4095
    for row, path in enumerate(sorted(folder.iterdir())):
        assert (np.load(path) == data.images[row]).all()


def test_a_refused_raw_folder_leaves_no_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(mv.InputError):
        prepare("folder", tmp_path / "raw", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_refused_raw_folder_leaves_an_empty_folder_empty(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "1.png")
    (tmp_path / "data").mkdir()
    with pytest.raises(mv.InputError, match="--side"):
        prepare("folder", tmp_path / "raw", tmp_path / "data", settings=mv.PrepareSettings(size=32, side="L"))
    assert list((tmp_path / "data").iterdir()) == []


def test_the_folder_may_lie_inside_the_raw_tree(tmp_path: Path) -> None:
    for seed in range(2):
        film(tmp_path / f"{seed}.png", seed)
    first = prepare("folder", tmp_path, tmp_path / "DATA")
    again = prepare("folder", tmp_path, tmp_path / "DATA")
    assert (first["counts"]["images"], again["counts"]["images"]) == (2, 2)


def test_archives_in_the_tree_are_said_once(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "1.png")
    for name in ("x.dcm.gz", "y.zip"):
        (tmp_path / "raw" / name).write_bytes(b"archive")
    result = prepare("folder", tmp_path / "raw", tmp_path / "data")
    assert "2 archives (.gz, .zip)" in str(result)


def test_what_cannot_be_listed_is_a_failed_row_and_the_rest_is_prepared(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "1.png")
    os.mkfifo(tmp_path / "raw" / "2.png")
    shutil.copy(tmp_path / "raw" / "1.png", tmp_path / "raw" / os.fsdecode(b"M\xfcller.png"))
    frame = rows_of(prepare("folder", tmp_path / "raw", tmp_path / "data").path)
    assert frame["status"].to_dict() == {"1.png": "ok", "2.png": "failed", "M\\xfcller.png": "failed"}


def test_a_side_that_is_asked_for_does_not_hide_what_could_not_be_read(tmp_path: Path) -> None:
    mammogram(tmp_path / "raw" / "1.dcm", ImageLaterality="L")
    mammogram(tmp_path / "raw" / "2.dcm", 2, ImageLaterality="R")
    (tmp_path / "raw" / "3.dcm").write_bytes(b"no image")
    settings = mv.PrepareSettings(size=32, side="L")
    result = mv.prepare("dicom", tmp_path / "raw", out=tmp_path / "data", settings=settings, workers=1, strict=True)
    assert (result["counts"]["ok"], result["counts"]["failed"], result.status) == (1, 1, 1)


def test_names_with_line_breaks_are_prepared_and_shown(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "good.png")
    film(tmp_path / "raw" / "a\nb.png", 2)
    data = mv.Data.open(prepare("folder", tmp_path / "raw", tmp_path / "data").path)
    assert (data.index["status"] == "ok").all()
    assert not data.index["image_id"].str.contains("\n").any()


def test_a_folder_that_mammovae_wrote_is_no_raw_data(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "1.png")
    prepare("folder", tmp_path / "raw", tmp_path / "data")
    with pytest.raises(mv.UsageError, match="mammovae wrote"):
        prepare("folder", tmp_path / "data", tmp_path / "again")
    assert not (tmp_path / "again").exists()
