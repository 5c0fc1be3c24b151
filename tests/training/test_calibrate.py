"""What a run is calibrated on: enough patients, each with a number, and nothing trained without them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv
from mammovae.config import preset
from mammovae.data.dataset import Data
from mammovae.detection.quality import thumbnails
from mammovae.training import calibrate
from mammovae.training.train import train_on

SMALL: dict[str, Any] = {"epochs": 1, "vae": {"size": 32, "filters": [4, 8], "latent": 4}}


def with_calibration_patients(data: Data, count: int) -> Data:
    """Leave only some calibration patients in the split, the others unused."""
    index, calibration = data.index, data.select("calibration")
    patients = index["patient_id"].iloc[calibration].unique()[:count]
    is_left_out = (index["split"] == "calibration") & ~index["patient_id"].isin(patients)
    return replace(data, index=index.assign(split=index["split"].mask(is_left_out, "unused")))


@pytest.mark.parametrize(("count", "words"), [(0, "0 healthy patients"), (1, "1 healthy patient")])
def test_training_without_two_calibration_patients_is_refused_before_anything_is_written(
    count: int, words: str, trapped_data: Path, tmp_path: Path
) -> None:
    data = with_calibration_patients(Data.open(trapped_data), count)
    with pytest.raises(mv.InputError, match=f"calibration images of {words} that match, .* another --seed"):
        train_on(data, tmp_path / "run", "tiny", preset("tiny", SMALL))
    assert not (tmp_path / "run").exists()


def test_two_calibration_patients_are_enough(trapped_data: Path, tmp_path: Path) -> None:
    data = with_calibration_patients(Data.open(trapped_data), 2)
    manifest = train_on(data, tmp_path / "run", "tiny", preset("tiny", SMALL))
    assert manifest["calibration_patients"] == 2
    table = mv.score(tmp_path / "run", trapped_data, out=tmp_path / "scores.csv")["table"]
    assert table["finding_percentile"].dropna().between(100 / 3, 200 / 3).all() and table["finding_p"].min() == 1 / 3


def test_a_network_that_only_generates_needs_no_calibration_images(trapped_data: Path, tmp_path: Path) -> None:
    data = with_calibration_patients(Data.open(trapped_data), 0)
    small = {
        "epochs": 1,
        "pyramid_vae": {"size": 64, "widths": [4, 8], "latent": 4, "bands": 1, "refiner": [8], "presentations": None},
    }
    manifest = train_on(data, tmp_path / "run", "generate", preset("generate", small))
    assert manifest["calibration_patients"] == 0 and mv.Run.open(tmp_path / "run").generator is not None


def test_calibration_images_are_numbered_by_patient(run: Path, trapped_data: Path) -> None:
    data, opened = Data.open(trapped_data), mv.Run.open(run)
    ids = data.index["patient_id"].iloc[data.parts(opened.settings)["calibration"]].tolist()
    numbers = pd.read_parquet(run / "calibration.parquet")["patient"].tolist()
    assert len(set(zip(ids, numbers, strict=True))) == len(set(ids)) == len(set(numbers))
    assert opened.manifest["calibration_patients"] == len(set(ids)) and set(numbers) == set(range(len(set(ids))))


def test_images_are_shrunk_a_few_at_a_time_into_the_same_thumbnails(
    trapped_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, held = Data.open(trapped_data), []
    positions = data.select("train")[:10]
    expected = thumbnails(data.images[positions], data.masks[positions])

    def recorded(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held.append(len(images))
        return thumbnails(images, masks)

    monkeypatch.setattr(calibrate, "thumbnails", recorded)
    monkeypatch.setattr(calibrate, "_BATCH", 4)
    measures, *got = calibrate._quality_inputs(data, positions)
    assert held == [4, 4, 2] and len(measures) == 10
    np.testing.assert_array_equal(np.stack(got), np.stack(expected))
