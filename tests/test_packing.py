"""A run handed on: whole for those who get it, and without anyone whom it has learnt from."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from tests.training.test_leakage import named

import mammovae as mv
from mammovae import packing
from mammovae.detection.calibration import CALIBRATION
from mammovae.detection.quality import REFERENCE_MEASUREMENTS, TEMPLATES
from mammovae.generation.latent_density import DENSITY
from mammovae.models.base import HISTORY, WEIGHTS
from mammovae.report.recorded_figures import FIGURES
from mammovae.storage import MANIFEST
from mammovae.training.leakage import TRAINING_IMAGES
from mammovae.training.model_card import CARD

GOES = {MANIFEST, CARD, "config.toml", CALIBRATION, REFERENCE_MEASUREMENTS, TEMPLATES, DENSITY, "loss.png"}
GOES |= {f"members/vae/{name}" for name in (HISTORY, WEIGHTS)}


@pytest.fixture(scope="module")
def evaluated(run: Path, trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of its own with an evaluation's figures."""
    folder = tmp_path_factory.mktemp("packed")
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns(FIGURES))
    mv.evaluate(folder / "run", trapped_data, out=folder / "evaluation")
    return folder / "run"


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path) -> Path:
    """The same, which a test may change."""
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


@pytest.fixture(scope="module")
def handed_on(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What those who get it unzip."""
    folder = tmp_path_factory.mktemp("handed-on")
    mv.pack(evaluated, out=folder / "run.zip")
    zipfile.ZipFile(folder / "run.zip").extractall(folder / "run")
    return folder / "run"


def test_what_goes_is_a_list_and_what_does_not_is_said(copy: Path, tmp_path: Path) -> None:
    (copy / "notes.txt").write_text("patient-1")
    (copy / "members" / "vae" / "resume.ckpt").write_bytes(b"1")
    (copy / "examples").mkdir()
    (copy / "examples" / "patient.png").write_bytes(b"1")
    result = mv.pack(copy, out=tmp_path / "run.zip")
    figures = {f"{FIGURES}/{path.name}" for path in (copy / FIGURES).iterdir()}
    assert set(result["files"]) == GOES | figures == set(zipfile.ZipFile(tmp_path / "run.zip").namelist())
    private = [f"private/{name}" for name in ("reconstructions.png", "training_images.json")]
    assert result["left_out"] == ["notes.txt", "examples/patient.png", "members/vae/resume.ckpt", *private]
    assert str(result).startswith(f"left out: notes.txt, examples/patient.png, members/vae/resume.ckpt, {private[0]}")
    assert result.path == tmp_path / "run.zip" and result.status == 0


def test_no_patient_no_image_and_no_path_is_in_it(
    evaluated: Path, handed_on: Path, trapped_data: Path, trapped_raw: Path
) -> None:
    frame = mv.Data.open(trapped_data).index
    names = [*frame["patient_id"].unique(), *frame["image_id"]]
    names += [f"vindr:{name}" for name in frame["patient_id"].unique()]
    files = [path for path in handed_on.rglob("*") if path.is_file()]
    assert not named(names, files)
    assert named(names, [evaluated / TRAINING_IMAGES]), "or the search finds nothing"
    held = b"\0".join(path.read_bytes() for path in files)
    record = json.loads((evaluated / TRAINING_IMAGES).read_text())
    assert not [one for one in record["patients"] + record["pixels"] if one.encode() in held]
    folders = [str(place) for one in (evaluated, trapped_data, trapped_raw) for place in (one, one.parent)]
    assert not [folder for folder in folders if folder.encode() in held]
    assert str(trapped_data) in (evaluated / MANIFEST).read_text(), "or there was none to leave out"


def test_every_command_takes_the_unzipped_folder(
    evaluated: Path, handed_on: Path, trapped_data: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    for name, run in (("own", evaluated), ("theirs", handed_on)):
        mv.score(run, trapped_data, out=tmp_path / name / "scores.csv")
        mv.generate(run, out=tmp_path / name / "generated", count=3)
        mv.evaluate(run, trapped_data, out=tmp_path / name / "evaluation")
    for file in ("scores.csv", "generated/images.npy", "evaluation/metrics.json"):
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes(), file
    facts = str(mv.info(handed_on)).splitlines()
    assert facts[0].startswith(f"{handed_on}: RUN folder (train, done), preset tiny") and "model card" in facts[-1]
    data = mv.prepare(
        "vindr", trapped_raw, out=tmp_path / "data", workers=2, settings=mv.PrepareSettings(size=64, seed=3)
    )
    result = mv.evaluate(handed_on, data.path, out=tmp_path / "other")
    assert "could not be checked" in result["notes"][0], "it has no private/"


def test_the_same_run_gives_the_same_bytes_also_from_what_was_unzipped(
    evaluated: Path, copy: Path, handed_on: Path, tmp_path: Path
) -> None:
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    clean = tmp_path / "clean"
    zipfile.ZipFile(mv.pack(evaluated, out=tmp_path / "a.zip").path).extractall(clean)
    mv.pack(copy, out=tmp_path / "b.zip")
    assert mv.pack(clean, out=tmp_path / "c.zip")["left_out"] == []
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


def test_the_card_in_it_is_the_runs(evaluated: Path, handed_on: Path, copy: Path, tmp_path: Path) -> None:
    assert "### Evaluation" in (evaluated / CARD).read_text()
    (copy / CARD).write_text("of patient-1")
    with zipfile.ZipFile(mv.pack(copy, out=tmp_path / "run.zip").path) as archive:
        assert archive.read(CARD) == (evaluated / CARD).read_bytes(), "written anew, whatever was put there"


def rewrite_parquet(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


def name_rows(copy: Path) -> None:
    rewrite_parquet(copy / CALIBRATION, lambda table: table.assign(patient_id="patient-1"))


def number_rows(copy: Path) -> None:
    rewrite_parquet(copy / REFERENCE_MEASUREMENTS, lambda table: table.assign(patient=range(len(table))))


def text_for_numbers(copy: Path) -> None:
    rewrite_parquet(copy / CALIBRATION, lambda table: table.assign(patient="patient-1"))


def name_epochs(copy: Path) -> None:
    path = copy / "members" / "vae" / HISTORY
    pd.read_csv(path).assign(note="patient-1").to_csv(path, index=False)


def rows_with_names(copy: Path) -> None:
    path = copy / "members" / "vae" / HISTORY
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(f"patient-1,{row}" for row in rows)]))


def odd_column(copy: Path) -> None:
    path = copy / "members" / "vae" / HISTORY
    pd.read_csv(path).assign(**{"Patient 1": 3}).to_csv(path, index=False)


def other_weights(copy: Path) -> None:
    path = copy / "members" / "vae" / WEIGHTS
    arrays = load_file(path)
    save_file(arrays, path, {"patient": "patient-1"})


def odd_array(copy: Path) -> None:
    save_file(load_file(copy / TEMPLATES) | {"patient_1": np.zeros(3)}, copy / TEMPLATES)


def odd_note(copy: Path) -> None:
    save_file(load_file(copy / DENSITY), copy / DENSITY, {"patient-1": "1.0"})


def link_to_another_file(copy: Path) -> None:
    secret = copy.parent / "secret"
    secret.write_text("patient-1")
    (copy / CALIBRATION).unlink()
    (copy / CALIBRATION).symlink_to(secret)


def pipe(copy: Path) -> None:
    (copy / CALIBRATION).unlink()
    os.mkfifo(copy / CALIBRATION)


def foreign_figures(copy: Path) -> None:
    path = next((copy / FIGURES).iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patients": ["patient-1"]}))


def older(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({n: v for n, v in manifest.items() if n != "training_data"}))


def unfinished(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"state": "running"}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (name_rows, "calibration.parquet has a column 'patient_id' that mammovae does not write there"),
        (text_for_numbers, "calibration.parquet has a column 'patient' that mammovae"),
        (number_rows, "quality_reference.parquet has a column 'patient' that"),
        (name_epochs, "history.csv has a column 'note' that"),
        (rows_with_names, "history.csv has rows of different lengths"),
        (odd_column, "history.csv has a column 'Patient 1' that"),
        (other_weights, "model.safetensors holds other weights than manifest.json says"),
        (odd_array, "quality_templates.safetensors has an array 'patient_1' that"),
        (odd_note, "density.safetensors has a note 'patient-1' that"),
        (link_to_another_file, "cannot read .*calibration.parquet"),
        (pipe, "there is no file .*calibration.parquet"),
        (foreign_figures, "holds no figures of a run"),
        (older, "does not say training_data: it was trained by an older mammovae; train again"),
        (unfinished, "is unfinished"),
    ],
)
def test_a_file_that_does_not_hold_what_train_wrote_is_refused_and_nothing_is_written(
    copy: Path, tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    change(copy)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(mv.InputError, match=sentence) as error:
        mv.pack(copy, out=tmp_path / "run.zip")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_index_and_notes_within_a_table_do_not_go_along(copy: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(copy / CALIBRATION)
    table.attrs["whose"] = "patient-1"
    table.set_axis([f"patient-{n}" for n in range(len(table))]).to_parquet(copy / CALIBRATION)
    with zipfile.ZipFile(mv.pack(copy, out=tmp_path / "run.zip").path) as archive:
        held = archive.read(CALIBRATION)
    assert b"patient-" not in held
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(held)), table.reset_index(drop=True), check_like=True)


def test_a_picture_under_a_known_name_is_drawn_anew(copy: Path, handed_on: Path, tmp_path: Path) -> None:
    shutil.copyfile(copy / "private" / "reconstructions.png", copy / "loss.png")
    with zipfile.ZipFile(mv.pack(copy, out=tmp_path / "run.zip").path) as archive:
        assert archive.read("loss.png") == (handed_on / "loss.png").read_bytes()


def test_facts_and_comments_that_a_hand_added_do_not_go_along(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest |= {"patients": ["patient-1"], "joined": ["/home/someone/DATA: moved"]}
    manifest["prepared"]["root"] = "patient-1"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with (copy / "config.toml").open("a") as file:
        file.write("# patient-1\n")
    with zipfile.ZipFile(mv.pack(copy, out=tmp_path / "run.zip").path) as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
    assert b"patient-1" not in held and b"someone" not in held


def test_links_are_not_followed_out_of_the_run(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "patient.png").write_bytes(b"1")
    (copy / "linked").symlink_to(tmp_path / "elsewhere")
    (copy / "gone").symlink_to(tmp_path / "nowhere")
    (copy / "circle").symlink_to(copy)
    left_out = mv.pack(copy, out=tmp_path / "run.zip")["left_out"]
    assert {"linked", "gone", "circle"} <= set(left_out) and "linked/patient.png" not in left_out


def test_a_run_whose_files_are_links_as_downloads_make_them_is_packed(
    copy: Path, evaluated: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(copy, store)
    for path in [path for path in copy.rglob("*") if path.is_file()]:
        path.unlink()
        path.symlink_to(store / path.relative_to(copy))
    mv.pack(copy, out=tmp_path / "a.zip")
    mv.pack(evaluated, out=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_archive_of_pack_is_replaced_and_no_other_file(copy: Path, tmp_path: Path) -> None:
    out = mv.pack(copy, out=tmp_path / "run.zip").path
    first = out.read_bytes()
    mv.pack(copy, out=out)
    assert out.read_bytes() == first
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("thesis.txt", "years of work")
    (tmp_path / "folder").mkdir()
    for taken in (tmp_path / "other.zip", copy / MANIFEST, copy / CARD, tmp_path / "folder"):
        before = taken.read_bytes() if taken.is_file() else b""
        with pytest.raises(mv.UsageError, match=r"which would be lost|is a folder"):
            mv.pack(copy, out=taken)
        assert not before or taken.read_bytes() == before


def test_interrupted_it_leaves_the_archive_of_before(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = mv.pack(copy, out=tmp_path / "run.zip").path
    first, add = out.read_bytes(), packing._add

    def interrupt(archive: Any, name: str, *others: Any) -> None:
        if name.endswith(WEIGHTS):
            raise KeyboardInterrupt
        add(archive, name, *others)

    monkeypatch.setattr(packing, "_add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mv.pack(copy, out=out)
    assert out.read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.zip"}


def test_the_archive_itself_is_no_run_and_both_ways_say_to_unzip_it(copy: Path, tmp_path: Path) -> None:
    out = mv.pack(copy, out=tmp_path / "run.zip").path
    assert (
        str(mv.info(out))
        == f"{out}: zip archive of a RUN folder: unzip it, and name the folder that it was unzipped to"
    )
    with pytest.raises(mv.InputError, match="is a zip archive: unzip it, and name the folder"):
        mv.generate(out, out=tmp_path / "generated")


def test_more_files_left_out_than_a_screen_takes_are_counted(copy: Path, tmp_path: Path) -> None:
    (copy / "more").mkdir()
    for number in range(30):
        (copy / "more" / f"{number:02d}\x1b.txt").write_text("")
    result = mv.pack(copy, out=tmp_path / "run.zip")
    first = str(result).splitlines()[0]
    assert first.endswith(" and 12 more") and "\x1b" not in first and len(result["left_out"]) == 32
