"""Training on several DATA folders: the weights, the scores and the refusals of one folder that holds their rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from tests.data.data_folders import row, small_data, two_folders_and_both
from tests.models.small_members import small_settings

import mammovae as mv

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = small_settings("vae", "bilateral_vae", "lesion_segmenter") | {"epochs": 2, "batch_size": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return two_folders_and_both(tmp_path_factory.mktemp("joined"))


def contents(file: Path) -> bytes | dict[str, bytes]:
    """Return the bytes of a file, of tensors by name: their order in the file is not fixed."""
    if file.suffix == ".parquet":
        return file.read_bytes()
    return {name: value.tobytes() for name, value in load_file(file).items()}


def test_training_on_two_folders_gives_the_weights_of_one_folder_that_holds_the_rows_of_both(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first, second, whole = folders
    joined, single = (
        mv.train(*data, out=tmp_path / name, preset="tiny", settings=mv.TrainSettings(**SETTINGS)).path
        for name, data in (("joined", (first, second)), ("single", (whole,)))
    )
    names = sorted(
        str(path.relative_to(single)) for path in single.rglob("*") if path.suffix in (".safetensors", ".parquet")
    )
    assert {f"members/{name}/model.safetensors" for name in SETTINGS["members"]} | {"calibration.parquet"} <= set(names)
    for name in names:
        ours, theirs = (contents(run / name) for run in (joined, single))
        assert ours == theirs, name
    record = "private/training_images.json"
    assert json.loads((joined / record).read_text()) == json.loads((single / record).read_text())
    tables = [mv.score(run, first, second, out=tmp_path / f"{run.name}.csv")["table"] for run in (joined, single)]
    pd.testing.assert_frame_equal(*tables)
    of_whole = mv.score(single, whole, out=tmp_path / "whole.csv")["table"]
    joined, whole = (table.drop(columns="source").set_index("image_id") for table in (tables[0], of_whole))
    # Images fall into other batches, which round otherwise; a percentile is steep where few images calibrate.
    places = [name for name in whole if name.endswith("_percentile")]
    np.testing.assert_allclose(joined[places], whole[places], atol=0.01)
    pd.testing.assert_frame_equal(joined.drop(columns=places), whole.drop(columns=places))


def test_training_resumes_with_the_same_folders_and_refuses_others(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first, second, whole = folders
    command = [sys.executable, "-m", "mammovae", "train", first.name, second.name, "--preset", "tiny", "--out"]
    command += [str(tmp_path / "run"), "--epochs", "1", "--vae.size", "32"]
    answer = subprocess.run(command, cwd=first.parent, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    elsewhere = [*command[:4], str(first), str(second), *command[6:]]
    answer = subprocess.run(elsewhere, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0 and "is done already" in answer.stderr
    settings = mv.TrainSettings(epochs=1, vae={"size": 32})
    for others in ((second, first), (first,), (whole,), (first, whole)):
        with pytest.raises(mv.UsageError, match="was begun with another"):
            mv.train(*others, out=tmp_path / "run", preset="tiny", settings=settings)


def test_too_few_calibration_patients_in_all_folders_are_refused(tmp_path: Path) -> None:
    splits = (["train", "validation", "calibration"], ["train", "train", "train"])
    folders = [
        small_data(tmp_path / name, [row(f"{name}{i}", f"{name}{i}", split) for i, split in enumerate(own)], [0, 1, 2])
        for name, own in zip("AB", splits, strict=True)
    ]
    with pytest.raises(mv.InputError, match=r"A, \S*B have calibration images of 1 healthy patient"):
        mv.train(*folders, out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**SETTINGS))
    assert not (tmp_path / "run").exists()


def test_no_folder_and_a_folder_named_twice_are_refused(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(mv.UsageError, match="give at least 1"):
        mv.train(out=tmp_path / "run", preset="tiny")
    (tmp_path / "link").symlink_to(folders[0])
    with pytest.raises(mv.UsageError, match="is named twice"):
        mv.train(folders[0], tmp_path / "link", out=tmp_path / "run", preset="tiny")


def test_scores_that_compare_the_breasts_of_a_patient_take_both_from_one_folder(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    settings = SETTINGS | {"epochs": 1, "fused_bilateral": [f"{SETTINGS['fused'][0]}_bilateral"]}
    run = mv.train(*folders[:2], out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(**settings)).path
    places = [
        small_data(tmp_path / name, [row(f"{name}{side}", "1", "test", side) for side in sides], pixels)
        for name, sides, pixels in (("A", "L", [0]), ("B", "R", [1]), ("C", "LR", [2, 3]))
    ]
    table = mv.score(run, *places, out=tmp_path / "scores.csv")["table"].set_index("image_id")
    raw = table[SETTINGS["fused"][0]]
    alone = mv.score(run, places[2], out=tmp_path / "alone.csv")["table"].set_index("image_id")
    names = [name for name in table if name.startswith("finding")]
    assert len(raw) == 4
    pd.testing.assert_frame_equal(table.loc[["CL", "CR"], names], alone[names])
    without = mv.score(run, places[0], out=tmp_path / "one.csv")["table"].set_index("image_id")
    pd.testing.assert_frame_equal(table.loc[["AL"], names], without[names])


def test_two_processes_share_the_batches_of_joined_folders(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    settings = mv.TrainSettings(epochs=1, vae={"size": 32})
    runs = [
        mv.train(*folders[:2], out=tmp_path / str(count), preset="tiny", devices=count, settings=settings).path
        for count in (1, 2)
    ]
    losses = [pd.read_csv(run / "members" / "vae" / "history.csv")["validation_loss"] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_prepared_folders_of_two_archives_train_and_are_evaluated_one_by_one(tmp_path: Path) -> None:
    places = []
    for seed in (1, 2):
        raw = mv.phantom(out=tmp_path / f"raw{seed}", layout="folder", patients=10, size=64, seed=seed, workers=2).path
        places.append(
            mv.prepare("folder", raw, out=tmp_path / f"data{seed}", settings=mv.PrepareSettings(size=32)).path
        )
    settings = mv.TrainSettings(epochs=1, vae={"size": 32})
    trained = mv.train(*places, out=tmp_path / "run", preset="tiny", settings=settings)
    assert trained["prepared"]["phantoms"] and trained["prepared"]["stored_as"] == "standard"
    # Both sets number their patients from 1, so that those of one number are one patient: the safe side.
    assert "patients of several folders" in str(trained)
    for number, data in enumerate(places):
        metrics = mv.evaluate(trained.path, data, out=tmp_path / f"evaluation{number}")
        assert metrics["n_healthy"] > 0 and metrics["notes"] == []
    shutil.rmtree(tmp_path / "run" / "private")
    (note,) = mv.evaluate(trained.path, places[0], out=tmp_path / "unchecked")["notes"]
    assert "could not be checked" in note
